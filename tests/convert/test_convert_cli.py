from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Ran

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("importable_sources")


def test_result_is_shown_and_written(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    out, report = tmp_path / "mlp.onnx", tmp_path / "mlp.json"
    done = graphopt(
        "convert", "networks:mlp", "-o", str(out), "--output-name", "logits", "--opset", "18",
        "--dynamic-shapes", "features[rows, 6]", "--json", str(report),
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "opset 18" in done.out
    assert "input features: FLOAT[rows, 6]" in done.out
    assert "rows=1" in done.out
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["logits"]
    content = json.loads(report.read_text())
    assert content["bytes"] == out.stat().st_size
    assert content["opsets"] == {"": 18}
    assert content["inputs"] == [{"name": "features", "dtype": "FLOAT", "shape": ["rows", 6]}]
    assert [entry["sizes"] for entry in content["parity"]] == [
        {"rows": 3},
        {"rows": 4},
        {"rows": 1},
    ]
    assert all(entry["max_abs"] <= entry["bound"] for entry in content["parity"])


def test_json_stream_is_only_json_and_notes_go_to_stderr(tmp_path: Path) -> None:
    """In a process of its own, where torch is imported while it runs and may say so."""
    out = str(tmp_path / "fixed.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "convert", "networks:fixed_batch", "-o", out,
         "--json", "-"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert json.loads(done.stdout)["notes"] == [done.stderr.removeprefix("graphopt: ").strip()]
    assert "axis 0 of x stays 2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["networks:noisy"], 1, "differs from the source framework"),
        (["networks:absent"], 2, "networks has no absent"),
        (["missing.pt2"], 2, "missing.pt2: no such file"),
        (["networks:mlp", "--from", "caffe"], 2, "choose from tensorflow"),
        (["networks:mlp", "--dynamic-shapes", "features"], 2, "is not the shape of an input"),
        (["networks:fixed_batch", "--dynamic-shapes", "x[b, 5]"], 2, "torch.export fails"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_failure_is_one_line_and_leaves_what_was_there(
    graphopt: Callable[..., Ran],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    done = graphopt("convert", *arguments, "-o", str(out))
    assert done.code == code
    assert message in done.err
    assert done.err.startswith("graphopt: ")
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_tolerance_allows_a_difference(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    done = graphopt("convert", "networks:noisy", "-o", str(tmp_path / "noisy.onnx"), "--atol", "1")
    assert done.code == 0
    assert (tmp_path / "noisy.onnx").exists()


def test_a_model_that_is_onnx_already_is_carried_over(
    graphopt: Callable[..., Ran], tmp_path: Path
) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"
    out = tmp_path / "out.onnx"
    done = graphopt("convert", str(fixture), "-o", str(out), "--opset", "13")
    assert (done.code, done.err) == (0, "")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]


@pytest.mark.parametrize("name", ["folder/", "folder//", "missing/", "folder/..", ""])
def test_a_folder_is_no_output(graphopt: Callable[..., Ran], tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    fixture = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"
    out = f"{tmp_path}/{name}" if name else ""
    done = graphopt("convert", str(fixture), "-o", out)
    assert done.code == 2
    assert "names a folder, not a file; name a file, as in" in done.err or not name
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.keras", "is empty; save the model again"),
        ("model.tflite", "is empty; save the model again"),
        ("models.zip", "is empty; save the model again"),
        ("folder", "is a folder that holds no SavedModel; give a SavedModel's folder, or a file"),
        ("", "no source is named; give a file, or module:callable returning a model"),
    ],
)
def test_nothing_to_convert_is_said_to_be_nothing(
    graphopt: Callable[..., Ran], tmp_path: Path, name: str, message: str
) -> None:
    source = tmp_path / name
    if name == "folder":
        source.mkdir()
    elif name:
        source.touch()
    done = graphopt("convert", str(source) if name else "", "-o", str(tmp_path / "out.onnx"))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_limits_of_onnx_sources_can_be_set(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    fixture = HERE.parents[1] / "fixtures" / "digits_mlp.onnx"
    cache, folder = tmp_path / "cache", tmp_path / "snapshot"
    cache.mkdir()
    folder.mkdir()
    onnx.save(onnx.load(fixture), cache / "m.onnx", save_as_external_data=True, location="blob")
    (folder / "m.onnx").write_bytes((cache / "m.onnx").read_bytes())
    (folder / "blob").symlink_to(cache / "blob")
    out = tmp_path / "out.onnx"
    refused = graphopt("convert", str(folder / "m.onnx"), "-o", str(out))
    assert refused.code == 2
    assert "--follow-symlinks" in refused.err
    small = ("--follow-symlinks", "--max-bytes", "1000")
    assert graphopt("convert", str(folder / "m.onnx"), "-o", str(out), *small).code == 2
    assert not out.exists()
    assert (
        graphopt("convert", str(folder / "m.onnx"), "-o", str(out), "--follow-symlinks").code == 0
    )
    onnx.checker.check_model(onnx.load(out), full_check=True)
