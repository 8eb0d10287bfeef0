from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.cli import main as main_module

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x) => (float[N,3] y) { a = Identity(x) y = Relu(a) }"""


class Piped(io.TextIOWrapper):
    """Standard input or output that is a stream of bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.bytes = io.BytesIO(content)
        super().__init__(self.bytes, write_through=True)


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main_module.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    ir.save(ir.from_onnx_text(TEXT), path)
    return path


def test_a_name_that_is_too_long_is_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = model.with_name("n" * 300 + ".onnx")
    assert called(monkeypatch, "run", model, "-o", name, "-p", "cleanup") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "name too long" in error


def test_no_memory_left_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhaust(**_: object) -> NoReturn:
        raise MemoryError("Unable to allocate 75 GiB")

    monkeypatch.setattr(main_module, "cli", exhaust)
    assert called(monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("graphopt: there is not enough memory (Unable to allocate 75 GiB)")
    assert error.count("\n") == 1


def test_a_broken_model_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.node[1].input[0] = "nothing"
    onnx.save(proto, tmp_path / "broken.onnx")
    out = tmp_path / "out.onnx"
    code = called(monkeypatch, "run", tmp_path / "broken.onnx", "-o", out, "-p", "cleanup")
    assert code == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "'nothing'" in error


def test_a_model_runs_through_a_pipe(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = model.read_bytes()
    out = Piped()
    monkeypatch.setattr(sys, "stdin", Piped(content))
    monkeypatch.setattr(sys, "stdout", out)
    assert called(monkeypatch, "run", "-", "-o", "-", "-p", "cleanup") == 0
    made = onnx.load_from_string(out.bytes.getvalue())
    assert [node.op_type for node in made.graph.node] == ["Relu"]
    recipe = {item.key: item.value for item in made.metadata_props}
    assert recipe["graphopt.source_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_model_is_validated_through_a_pipe(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(model.read_bytes()))
    assert called(monkeypatch, "validate", model, "-", "--rounds", "0") == 0
    assert "passed" in capsys.readouterr().out


def test_a_model_and_its_numbers_do_not_share_a_stream(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "run", model, "-o", "-", "-p", "cleanup", "--json", "-") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "would mix on stdout" in captured.err


def without_reader(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "graphopt", *map(str, arguments)]
    try:
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)


def test_a_reader_that_goes_away_is_no_failure(model: Path) -> None:
    done = without_reader("validate", model, model)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_check_says_no_to_a_reader_that_goes_away(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    ir.save(ir.from_onnx_text(TEXT.replace("Relu", "Neg")), other)
    done = without_reader("validate", model, other)
    assert done.returncode == 1
    assert b"differs" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-o", "o.onnx", "-p", "cleanup"),
        ("validate", "in.onnx"),
        ("bench",),
        ("bisect", "-p", "cleanup"),
    ],
)
def test_what_is_no_execution_provider_is_bad_usage(
    model: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model.parent)
    command, *options = arguments
    assert called(monkeypatch, command, model, *options, "--provider", "Foo") == 2
    said = capfd.readouterr().err
    assert said.startswith("graphopt: there is no execution provider 'Foo'; use cpu, cuda")
    assert said.count("\n") == 1
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize(
    "arguments", [("run", "in.onnx", "-p", "cleanup"), ("ensemble", "a", "a=in.onnx")]
)
def test_an_output_that_ends_like_a_folder_is_none(
    model: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model.parent)
    assert called(monkeypatch, *arguments, "-o", "made/") == 2
    assert "names a folder, not a file; name a file, as in" in capfd.readouterr().err
    assert not Path("made").exists()


def test_functions_of_the_user_that_exit_are_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    model.with_name("leaving_functions.py").write_text(
        "import sys\ndef leave(graph): sys.exit(0)\n"
    )
    out = model.with_name("out.onnx")
    assert called(monkeypatch, "run", model, "-o", out, "--pass", "leaving_functions:leave") == 2
    assert "called sys.exit(0)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_files_that_are_read_or_written_twice_are_refused(
    option: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = model.read_bytes(), model.with_name("out.onnx")
    run = ("run", model, "-p", "cleanup", "-o")
    assert called(monkeypatch, *run, out, option, model) == 2
    assert f"{option} would replace what is read" in capsys.readouterr().err
    assert called(monkeypatch, *run, out, option, out.parent / "." / out.name) == 2
    assert f"-o and {option} would write the same file" in capsys.readouterr().err
    assert not out.exists()
    assert model.read_bytes() == before


def test_samples_are_not_replaced_by_a_model(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = model.with_name("x.npz")
    np.savez(samples, x=np.ones((2, 3), np.float32))
    before = samples.read_bytes()
    run = ("run", model, "-p", "cleanup", "--data", samples, "-o")
    assert called(monkeypatch, *run, samples) == 2
    assert "-o would replace what is read" in capsys.readouterr().err
    assert samples.read_bytes() == before
    assert called(monkeypatch, *run, model) == 0
    for command in (("inspect", model), ("validate", model, model), ("bench", model)):
        assert called(monkeypatch, *command, "--json", model) == 2
        assert "--json would replace what is read" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_negative_seed_is_bad_usage(
    command: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, command, model, model, "--seed", "-1") == 2
    assert "--seed" in capsys.readouterr().err


def test_the_data_file_of_a_model_is_not_replaced(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(model)
    weight = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    proto.graph.initializer.append(weight)
    proto.graph.node[1].op_type = "Mul"
    proto.graph.node[1].input.append("w")
    held = model.with_name("held.onnx")
    onnx.save(proto, held, save_as_external_data=True, location="w.bin", size_threshold=0)
    data = held.with_name("w.bin")
    before, out = data.read_bytes(), held.with_name("out.onnx")
    run = ("run", held, "-p", "cleanup")
    for arguments in (
        (*run, "-o", data),
        (*run, "-o", out, "--json", data),
        (*run, "-o", out, "--report", data),
        ("inspect", held, "--json", data),
        ("validate", model, held, "--json", data),
        ("ensemble", "a + b", f"a={held}", f"b={model}", "-o", out, "--json", data),
    ):
        assert called(monkeypatch, *arguments) == 2, arguments
        assert "would replace what is read" in capsys.readouterr().err
        assert data.read_bytes() == before
    assert called(monkeypatch, *run, "-o", out, "--recipe-from", out) == 2
    assert called(monkeypatch, *run, "-o", out) == 0
    assert called(monkeypatch, "run", held, "-o", out, "--recipe-from", out) == 0
