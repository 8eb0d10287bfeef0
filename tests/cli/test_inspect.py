from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from graphopt.cli.inspect import command
from graphopt.errors import GraphoptError

MAIN = "from graphopt.cli.main import main; main()"

TEXT = """<ir_version: 10, opset_import: ["": 20], producer_name: "lab">
g (float[N,T,4] x) => (float[N,T,3] y) <float[4,3] w = {1}> { y = MatMul(x, w) }"""


def write_model(path: Path, *, name: str = "w", external: bool = False) -> Path:
    model = ir.from_onnx_text(TEXT)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.eye(4, 3, dtype=np.float32), name="w")
    weight.shape = ir.Shape([4, 3])
    weight.name = name
    onnx.save(
        ir.to_proto(model),
        path,
        save_as_external_data=external,
        location="w.bin",
        size_threshold=0,
    )
    return path


def inspect(*arguments: str | Path) -> str:
    result = CliRunner().invoke(
        command, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.stdout


def test_table(tmp_path: Path) -> None:
    shown = inspect(write_model(tmp_path / "m.onnx"), "--dim", "T=5")
    rows = {line.strip().split("  ")[0]: line for line in shown.splitlines()}
    assert "12 (48 B)" in rows["parameters"]
    assert "60" in rows["multiply-accumulates"]
    assert "75.0 %" in rows["sparsity of weights"]
    assert "[N, T, 4]" in rows["input"]
    assert "4 x 3" in rows["w"]
    assert "ai.onnx 20" in rows["opsets"]


def test_unknown_compute_says_why(tmp_path: Path) -> None:
    assert "dynamic dimensions" in inspect(write_model(tmp_path / "m.onnx"))


def test_json(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    facts = json.loads(inspect(path, "--json", "-"))
    assert facts["size_on_disk"] == path.stat().st_size
    assert facts["macs"] is None
    assert facts["sparsity"] == 0.75
    assert facts["inputs"] == [{"name": "x", "type": "FLOAT", "shape": ["N", "T", 4]}]
    target = tmp_path / "facts.json"
    assert "parameters" in inspect(path, "--json", target)
    assert json.loads(target.read_text()) == facts


def test_external_data_counts_as_size_on_disk(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", external=True)
    facts = json.loads(inspect(path, "--json", "-"))
    data = tmp_path / "w.bin"
    assert facts["files"] == {str(path): path.stat().st_size, str(data): data.stat().st_size}
    assert facts["size_on_disk"] == path.stat().st_size + data.stat().st_size


def test_a_model_from_a_stream(tmp_path: Path) -> None:
    content = write_model(tmp_path / "m.onnx").read_bytes()
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "inspect", "-", "--json", "-"],
        input=content,
        capture_output=True,
        check=True,
    )
    facts = json.loads(result.stdout)
    assert facts["parameters"] == 12
    assert facts["files"] == {}


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    shown = inspect(write_model(tmp_path / "m.onnx", name="\x1b[2J[red]w[/red]\r\n\u202ew"))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]w[/red]" in shown


@pytest.mark.parametrize("dim", ["T", "T=", "=3", "T=-1", "T=x"])
def test_a_dim_that_is_none(tmp_path: Path, dim: str) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match="NAME=SIZE"):
        inspect(path, "--dim", dim)


def test_json_that_cannot_be_written(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match="its folder does not exist; create the folder first"):
        inspect(path, "--json", tmp_path / "nowhere" / "facts.json")


def test_json_does_not_take_the_place_of_a_pipe(tmp_path: Path) -> None:
    path, pipe = write_model(tmp_path / "m.onnx"), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(GraphoptError, match="is no regular file; name a file, or - for stdout"):
        inspect(path, "--json", pipe)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [path, pipe]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_limits_reach_the_loader(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match=r"m\.onnx"):
        inspect(path, "--max-bytes", "10")


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", external=True)
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "w.bin").rename(cache / "blob")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    path.rename(folder / "m.onnx")
    (folder / "w.bin").symlink_to(cache / "blob")
    with pytest.raises(GraphoptError, match="follow-symlinks"):
        inspect(folder / "m.onnx")
    assert "parameters" in inspect(folder / "m.onnx", "--follow-symlinks")


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", None], ids=["empty", "text", "folder"]
)
def test_what_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    result = run("inspect", path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "m.onnx" in result.stderr


@pytest.mark.parametrize("dim", ["Z=3", "x[2]=4", "x[9]=4", "y[0]=1"])
def test_a_size_that_no_input_leaves_open_is_refused(tmp_path: Path, dim: str) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match="there is no dynamic size") as refused:
        inspect(path, "--dim", dim)
    assert refused.value.fix == "there is N, x[0], T, x[1]"
    assert "dynamic" not in inspect(path, "--dim", "N=2", "--dim", "x[1]=5")
