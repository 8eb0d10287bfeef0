from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from graphopt.cli.validate import command
from graphopt.errors import CheckFailed, GraphoptError

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x) => (float[N,3] logits) <float[3] b = {OFFSETS}> {
  a = Relu(x)
  logits = Add(a, b)
}"""


def write(path: Path, offsets: str = "0, 0, 0") -> Path:
    ir.save(ir.from_onnx_text(TEXT.replace("OFFSETS", offsets)), path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    x = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=np.maximum(x, 0).argmax(1))
    return (
        write(tmp_path / "a.onnx"),
        write(tmp_path / "b.onnx", "0.1, 0.1, 0.1"),
        tmp_path / "data.npz",
    )


def validate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, ["--rounds", "2", *map(str, arguments)])


def test_equal_models_pass_and_a_table_says_so(models: tuple[Path, Path, Path]) -> None:
    reference, _, data = models
    result = validate(reference, reference, "--data", data, "--metric", "accuracy")
    assert result.exception is None
    for text in ("passed", "logits", "30 samples", "CPU", "accuracy 1.0000", "100 %"):
        assert text in result.stdout


def test_a_mismatch_is_the_last_line_and_exit_1(models: tuple[Path, Path, Path]) -> None:
    reference, candidate, _ = models
    result = validate(reference, candidate)
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 1
    assert f"{candidate} on cpu: output 'logits' differs" in str(result.exception)
    assert "failed" in result.stdout


def test_budgets_of_the_command_line(models: tuple[Path, Path, Path]) -> None:
    pair = models[:2]
    data = ("--data", models[2])
    assert validate(*pair, "--atol", "0.2").exception is None
    assert validate(*pair, "--atol", "logits=0.2").exception is None
    assert validate(*pair, "--rtol", "logits=0", "--atol", "0.2").exception is None
    assert isinstance(validate(*pair, "--atol", "0.01").exception, CheckFailed)
    metric = ("--metric", "accuracy", "--max-drop", "0.01")
    assert validate(*pair, *data, *metric).exception is None
    assert isinstance(validate(*pair, "--min-sqnr", "90").exception, CheckFailed)


def test_json_holds_everything_and_goes_to_stdout_alone(models: tuple[Path, Path, Path]) -> None:
    reference, candidate, data = models
    result = validate(
        *(reference, candidate, "--data", data, "--metric", "accuracy", "--by-node"),
        *("--provider", "cpu", "--provider", "QNNExecutionProvider", "--json", "-"),
    )
    record = json.loads(result.stdout)
    assert record["passed"] is False
    assert record["samples"] == 30
    assert record["metric"] == 1
    first, second = record["trials"]
    assert first["status"] == "failed"
    assert first["outputs"][0]["max_abs"] == pytest.approx(0.1, rel=1e-3)
    assert first["first_node"]["value"] == "logits"
    assert first["latency"]["ratio"]["median"] > 0
    assert sum(first["placement"]["nodes"].values()) >= 1
    assert second["status"] == "absent"


def test_absent_providers_are_shown_and_can_be_required(models: tuple[Path, Path, Path]) -> None:
    reference = models[0]
    providers = ("--provider", "cpu", "--provider", "QNNExecutionProvider")
    result = validate(reference, reference, *providers)
    assert result.exception is None
    assert "absent" in result.stdout
    assert "not validated" in result.stdout
    required = validate(reference, reference, *providers, "--require-provider")
    assert isinstance(required.exception, CheckFailed)
    alone = validate(reference, reference, *providers[2:])
    assert isinstance(alone.exception, CheckFailed)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--atol", "-1"), "no tolerance"),
        (("--rtol", "nan"), "no tolerance"),
        (("--atol", "=1"), "no tolerance"),
        (("--metric", "akkuracy"), "no metric"),
        (("--max-drop", "0.1"), "give --metric"),
        (("--metric", "accuracy"), "needs labels"),
        (("--data", "nowhere.npz"), "no such file"),
        (("--provider", "cpu:x"), "no option"),
    ],
)
def test_bad_usage_is_one_line(
    models: tuple[Path, Path, Path], arguments: tuple[str, ...], cause: str
) -> None:
    result = validate(models[0], models[0], *arguments)
    assert isinstance(result.exception, GraphoptError)
    assert result.exception.exit_code == 2
    assert cause in str(result.exception)


def test_by_node_names_the_node(models: tuple[Path, Path, Path]) -> None:
    result = validate(*models[:2], "--by-node", "--limit-samples", "5")
    assert "parts first at node" in result.stdout
    assert "Nodes by error" in result.stdout
    assert "5 samples" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rtol", "nowhere=1"), "there is no output 'nowhere'"),
        (("--min-sqnr", "nan"), "--min-sqnr nan is no bound"),
        (("--max-drop", "nan", "--metric", "accuracy"), "--max-drop nan is no bound"),
    ],
)
def test_a_budget_of_nothing_is_bad_usage(
    models: tuple[Path, Path, Path], arguments: tuple[str, ...], says: str
) -> None:
    result = validate(models[0], models[0], "--data", models[2], *arguments)
    assert isinstance(result.exception, GraphoptError)
    assert result.exception.exit_code == 2
    assert says in str(result.exception)
