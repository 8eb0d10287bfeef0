from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
from click.testing import CliRunner, Result

from graphopt.cli.bench import command
from graphopt.errors import CheckFailed, GraphoptError

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"""


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, ["--rounds", "3", *map(str, arguments)])


def model(folder: Path, name: str = "a.onnx") -> Path:
    ir.save(ir.from_onnx_text(TEXT), folder / name)
    return folder / name


def test_models_are_timed_at_each_batch(tmp_path: Path) -> None:
    first, second = model(tmp_path), model(tmp_path, "b.onnx")
    result = bench(first, second, "--batch", "1", "--batch", "4", "--json", "-")
    assert result.exception is None
    timings = json.loads(result.stdout)["timings"]
    assert [timing["batch"] for timing in timings] == [1, 1, 4, 4]
    for timing in timings:
        assert len(timing["latency"]["rounds"]) == 3
        assert timing["latency"]["median"] > 0
    assert timings[0]["ratio"]["median"] == 1


def test_the_table_shows_ratio_and_spread(tmp_path: Path) -> None:
    path = model(tmp_path)
    result = bench(path, path, "--threads", "1", "--spin")
    assert result.exception is None
    for text in ("spread", "ratio to the first", "cpu", "1.00 (1.00 to 1.00)"):
        assert text in result.stdout


def test_absent_providers_fail_after_the_table(tmp_path: Path) -> None:
    path = model(tmp_path)
    result = bench(path, "--provider", "cpu", "--provider", "QNNExecutionProvider")
    assert isinstance(result.exception, CheckFailed)
    assert "absent" in str(result.exception)
    assert "does not count" in result.stdout


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3), np.float32))
    result = bench(model(tmp_path), "--data", tmp_path / "d.npz", "--batch", "8")
    assert isinstance(result.exception, GraphoptError)
    assert result.exception.exit_code == 2


OTHER = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x, float[N] z) => (float[N] y) { y = Neg(z) }"""


def test_members_are_timed_in_turn_and_at_once(tmp_path: Path) -> None:
    fused, a, b = tmp_path / "fused.onnx", model(tmp_path), tmp_path / "b.onnx"
    ir.save(ir.from_onnx_text(OTHER), fused)
    ir.save(ir.from_onnx_text(OTHER.replace("float[N,3] x, ", "")), b)
    result = bench(fused, a, b, "--sessions", "--json", "-")
    assert result.exception is None
    timings = json.loads(result.stdout)["timings"]
    names = [timing["model"] for timing in timings]
    assert names == [*map(str, (fused, a, b)), "2 sessions in turn", "2 sessions at once"]
    assert all(timing["latency"]["ratio"]["median"] > 0 for timing in timings)


def test_sessions_need_members(tmp_path: Path) -> None:
    result = bench(model(tmp_path), "--sessions")
    assert isinstance(result.exception, GraphoptError)
    assert "then its members" in str(result.exception)
