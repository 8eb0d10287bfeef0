from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
import pytest
from scripted_passes import Scripted, content
from toys import DropIdentity, Scale, chain, ops

from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.pipeline.instrument import Instrument, RollBack, Step
from graphopt.pipeline.manager import run
from graphopt.pipeline.result import joined
from graphopt.pipeline.snapshot import structure


@dataclass
class Watcher(Instrument):
    """Writes down what it sees."""

    name: ClassVar[str] = "watcher"

    seen: list[tuple[str, list[str], list[str]]] = field(default_factory=list)

    def start(self, model: ir.Model, context: Context) -> None:
        self.seen.append(("start", ops(model), ops(model)))

    def before(self, step: Step) -> None:
        self.seen.append((f"before {step.text}", ops(step.before), ops(step.after)))

    def after(self, step: Step) -> None:
        self.seen.append((f"after {step.text}", ops(step.before), ops(step.after)))


def test_passes_run_in_order_and_the_caller_keeps_its_model() -> None:
    model = chain()
    before = content(model)
    result = run(model, [DropIdentity(), Scale(factor=2.0)])
    assert ops(result.model) == ["Mul", "Add", "Relu"]
    weight = result.model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy().tolist() == [2.0, -4.0, 6.0, -8.0]
    assert content(model) == before
    assert result.source is model
    assert result.pipeline == "drop_identity | scale(factor=2.0)"


def test_weights_nobody_touched_are_shared() -> None:
    model = chain()
    result = run(model, [DropIdentity(), Scale(mode="first", factor=2.0)])
    old, new = model.graph.initializers, result.model.graph.initializers
    assert new["b"].const_value is old["b"].const_value
    assert new["w"].const_value is not old["w"].const_value


def test_rewrites_and_declines_are_recorded_with_reason_and_details() -> None:
    dropped, scaled = run(chain(), [DropIdentity(), Scale(factor=2.0)]).steps
    assert [(note.at, note.why) for note in dropped.rewrites] == [
        ("second", "it copies its input"),
        ("fourth", "it copies its input"),
    ]
    assert [note.at for note in dropped.declined] == ["first", "third", "fifth"]
    assert scaled.rewrites[0].details == {"weight": "w", "factor": 2.0}
    assert (dropped.effect, scaled.effect) == ("exact", "lossy")


def test_details_that_apply_fills_in_are_recorded() -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        details: dict[str, Any] = {}
        yield Rewrite("w", "to count", lambda: details.update(zeros=3), details)

    assert run(chain(), [Scripted(script)]).steps[0].rewrites[0].details == {"zeros": 3}


def test_a_pass_sees_its_earlier_rewrites_applied() -> None:
    class First(DropIdentity):
        def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
            while True:
                found = [
                    item
                    for item in DropIdentity().rewrites(model, context)
                    if isinstance(item, Rewrite)
                ]
                if not found:
                    return
                yield found[0]

    result = run(chain(), [First()])
    assert len(result.steps[0].rewrites) == 2
    assert ops(result.model) == ["Mul", "Add", "Relu"]


@pytest.mark.parametrize("limit", range(6))
def test_the_limit_counts_over_the_whole_pipeline(limit: int) -> None:
    result = run(chain(), [DropIdentity(), Scale(factor=2.0)], limit=limit)
    assert result.kept_rewrites == min(limit, 4)
    assert result.limited == (limit <= 4)
    assert ops(result.model).count("Identity") == max(0, 2 - limit)
    assert len(result.steps) == (0 if limit == 0 else 1 if limit <= 2 else 2)


def test_a_pass_with_nothing_to_do_changes_nothing() -> None:
    watcher = Watcher()
    model = chain()
    result = run(model, [Scripted(lambda model, context: iter(()))], instruments=[watcher])
    assert content(result.model) == content(model)
    assert result.model is not model
    result.model.metadata_props["mine"] = "yes"
    assert "mine" not in model.metadata_props


def test_instruments_see_the_model_before_and_after() -> None:
    watcher = Watcher()
    run(chain(), [DropIdentity(), Scale()], instruments=[watcher])
    full, lean = ["Mul", "Identity", "Add", "Identity", "Relu"], ["Mul", "Add", "Relu"]
    assert watcher.seen == [
        ("start", full, full),
        ("before drop_identity", full, full),
        ("after drop_identity", full, lean),
        ("before scale", lean, lean),
        ("after scale", lean, lean),
    ]


def test_a_roll_back_undoes_one_pass_and_the_run_goes_on() -> None:
    class Veto(Instrument):
        def after(self, step: Step) -> None:
            if step.work.name == "scale":
                raise RollBack("too much")

    watcher = Watcher()
    result = run(chain(), [Scale(factor=9.0), DropIdentity()], instruments=[Veto(), watcher])
    assert result.steps[0].rolled_back == "too much"
    assert result.kept_pipeline == "drop_identity"
    assert result.kept_rewrites == 2
    weight = result.model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.numpy()[0] == 1.0
    assert ops(result.model) == ["Mul", "Add", "Relu"]
    # Those behind the veto see what is left.
    name, before, after = watcher.seen[2]
    assert (name, before) == ("after scale(factor=9.0)", after)


BODIES = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
main (bool c, float[2] x) => (float[2] y)
{
    a = Neg(x)
    [branch] y = If (c) <
        then_branch = yes () => (float[2] t) { u = own.Twice(a) t = Identity(u) },
        else_branch = no () => (float[2] e) { e = Abs(a) }
    >
}
<domain: "own", opset_import: ["": 17]>
Twice (v) => (w) { w = Add(v, v) }
"""


def test_snapshots_take_bodies_and_functions_along() -> None:
    model = ir.from_onnx_text(BODIES)
    model.meta["mine"] = 1

    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        def apply() -> None:
            body = model.graph.node("branch").attributes["then_branch"].as_graph()
            body[1].name = "renamed"
            body[1].outputs[0].dtype = ir.DataType.DOUBLE
            next(iter(model.functions.values()))[0].name = "renamed"

        yield Rewrite("branch", "to see", apply)

    before = content(model)
    result = run(model, [Scripted(script)])
    assert content(model) == before
    assert content(result.model) != before
    assert result.model.meta["mine"] == 1
    assert structure(model) == structure(run(model, []).model)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int | None]] = []
    context = Context(progress=lambda phase, done, total: told.append((phase, done, total)))
    run(chain(), [DropIdentity(), Scale()], context)
    assert told == [("passes", 0, 2), ("passes", 1, 2), ("passes", 2, 2)]


def test_timing_is_a_tree_of_the_run() -> None:
    timing = run(chain(), [DropIdentity()], instruments=[Watcher()]).timing
    (step,) = [part for part in timing.parts if part.name == "drop_identity"]
    names = {part.name for part in step.parts}
    assert {"snapshot", "decide", "apply", "order", "watcher"} <= names
    assert timing.seconds >= step.seconds >= max(part.seconds for part in step.parts)


def test_the_record_is_json() -> None:
    first = run(chain(), [DropIdentity()])
    both = joined([first, run(first.model, [Scale(factor=float("inf"))])])
    record = json.loads(json.dumps(both.as_json(), allow_nan=False))
    assert [step["name"] for step in record["steps"]] == ["drop_identity", "scale"]
    assert record["steps"][1]["rewrites"][0]["details"] == {"weight": "w", "factor": "inf"}
    assert record["pipeline"] == both.pipeline


def test_the_result_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = (
        "import sys, graphopt\n"
        "model = graphopt.load(sys.argv[1])\n"
        "result = graphopt.run(model, graphopt.parse('cleanup'))\n"
        "graphopt.save(result.model, sys.argv[2])\n"
        "print([note.at for step in result.steps for note in step.rewrites + step.declined])\n"
    )
    source = Path(__file__).parents[2] / "fixtures" / "digits_resnet.onnx"
    runs = []
    for seed in ("0", "1", "4711"):
        target = tmp_path / f"{seed}.onnx"
        ran = subprocess.run(
            [sys.executable, "-c", script, str(source), str(target)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append((ran.stdout, target.read_bytes()))
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][1] != source.read_bytes()
