from __future__ import annotations

from pathlib import Path

import pytest
from edit_passes import data, labelled
from toys import DropIdentity, Scale, chain, ops

from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.pipeline.contract import Context
from graphopt.pipeline.instruments import (
    Dump,
    LatencyGuard,
    MetricGuard,
    Statistics,
)
from graphopt.pipeline.instruments.guard import latency_ratio
from graphopt.pipeline.manager import run


def test_statistics_measure_before_and_after() -> None:
    dropped, scaled = run(
        chain(), [DropIdentity(), Scale(factor=0.0)], instruments=[Statistics()]
    ).steps
    assert dropped.before is not None
    assert dropped.after is not None
    assert (dropped.before.nodes, dropped.after.nodes) == (5, 3)
    assert scaled.before is dropped.after


def test_dump_keeps_the_model_after_each_pass(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "dump"
    run(chain(), [DropIdentity(), Scale(factor=2.0)], instruments=[Dump(folder)])
    assert sorted(file.name for file in folder.iterdir()) == [
        "00-source.onnx",
        "01-drop_identity.onnx",
        "02-scale.onnx",
    ]
    assert len(ops(load(folder / "00-source.onnx"))) == 5
    assert len(ops(load(folder / "01-drop_identity.onnx"))) == 3


def test_dump_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("here")
    with pytest.raises(GraphoptError, match="taken: cannot be made"):
        run(chain(), [DropIdentity()], instruments=[Dump(tmp_path / "taken")])


def test_the_metric_guard_undoes_what_costs_too_much_and_goes_on() -> None:
    passes = [Scale(factor=-1.0), DropIdentity(), Scale(factor=2.0)]
    guard = MetricGuard("accuracy", max_drop=0.05)
    result = run(chain(), passes, labelled(), [guard])
    flipped, dropped, doubled = result.steps
    assert flipped.rolled_back is not None
    assert "accuracy went from 1 to 0" in flipped.rolled_back
    assert flipped.measures["accuracy"] < 0.95
    assert dropped.rolled_back is None
    assert dropped.measures["accuracy"] == 1.0
    assert doubled.rolled_back is None
    assert result.kept_pipeline == "drop_identity | scale(factor=2.0)"
    generous = run(chain(), passes, labelled(), [MetricGuard("accuracy", max_drop=1.0)])
    assert generous.kept_pipeline == generous.pipeline


def test_the_metric_guard_needs_labels() -> None:
    guard = MetricGuard("accuracy", 0.0)
    with pytest.raises(GraphoptError, match="needs labels; give data"):
        run(chain(), [], Context(feeds=data()), [guard])
    with pytest.raises(GraphoptError, match="must not be negative"):
        MetricGuard("accuracy", -1.0)


def test_the_latency_guard_undoes_what_is_too_slow() -> None:
    ratios = iter([1.2, 0.8, float("nan")])
    guard = LatencyGuard(1.1, lambda before, after, context: next(ratios))
    passes = [Scale(factor=2.0), DropIdentity(), Scale(factor=3.0)]
    steps = run(chain(), passes, instruments=[guard]).steps
    assert [step.rolled_back is not None for step in steps] == [True, False, True]
    assert steps[0].rolled_back == "it takes 1.2 times as long, and may take 1.1"
    assert steps[1].measures == {"latency ratio": 0.8}
    with pytest.raises(GraphoptError, match="must be positive"):
        LatencyGuard(0.0)


def test_latency_is_measured_on_onnx_runtime() -> None:
    assert latency_ratio(chain(), chain(), Context()) > 0
