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
from toys import Boom, DropIdentity, Scale, chain, ops

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.instrument import Instrument, RollBack, Step
from graphopt.pipeline.manager import PassFailed, run
from graphopt.pipeline.result import joined
from graphopt.pipeline.snapshot import structure


def content(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Scripted(Pass):
    """Does what a test tells it to."""

    name: ClassVar[str] = "scripted"
    effect: ClassVar[Effect] = Effect.EXACT

    script: Any = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        return self.script(model, context)  # type: ignore[no-any-return] # a test's own function


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


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(GraphoptError, match="negative"):
        run(chain(), [], limit=-1)


@pytest.mark.parametrize("limit", [1, None])
def test_the_generator_is_closed_also_when_something_fails(limit: int | None) -> None:
    closed = []

    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        def apply() -> None:
            if limit is None:
                raise RuntimeError("no")

        try:
            yield Rewrite("first", "why not", apply)
            yield Rewrite("first", "again", apply)
        finally:
            closed.append(True)

    try:
        run(chain(), [Scripted(script)], limit=limit)
    except PassFailed:
        assert limit is None
    assert closed == [True]


def test_a_failing_pass_is_named_and_rolled_back(tmp_path: Path) -> None:
    model = chain()
    before = content(model)
    with pytest.raises(PassFailed) as caught:
        run(model, [DropIdentity(), Boom(after=2, words="kaput")], reproducers=tmp_path)
    error = caught.value
    assert 'boom(after=2, words="kaput") failed, after drop_identity: RuntimeError: kaput' in str(
        error
    )
    assert "\n" not in str(error)
    assert error.exit_code == 1
    assert (error.rewrites_before, len(error.rewrites)) == (2, 2)
    assert content(model) == before
    # The model before the failing pass: everything the pass edited is as it was.
    assert content(error.before) == content(run(chain(), [DropIdentity()]).model)


def test_a_pass_that_refuses_is_named_with_the_fix_and_leaves_no_folder(tmp_path: Path) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        raise GraphoptError("it needs samples", fix="give --data")
        yield

    with pytest.raises(PassFailed) as caught:
        run(chain(), [Scripted(script)], reproducers=tmp_path)
    assert caught.value.exit_code == 2
    assert "as the first pass: it needs samples; give --data" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda model, context: iter([3]), "yielded 3, which is no Rewrite, Declined or Finding"),
        (lambda model, context: 3, "TypeError"),
    ],
)
def test_a_pass_that_breaks_the_contract_is_named(script: Any, said: str) -> None:
    with pytest.raises(PassFailed, match=said):
        run(chain(), [Scripted(script)])


def edit_name(model: ir.Model) -> None:
    model.graph.node(0).name = "renamed"


def edit_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor([0.0, 0.0, 0.0, 0.0])


def edit_attribute(model: ir.Model) -> None:
    model.graph.node(0).attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)


def edit_metadata(model: ir.Model) -> None:
    model.metadata_props["a"] = "b"


def edit_output(model: ir.Model) -> None:
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE


@pytest.mark.parametrize(
    "edit", [edit_name, edit_weight, edit_attribute, edit_metadata, edit_output]
)
def test_an_edit_outside_of_a_rewrite_is_found_and_undone(edit: Any) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        edit(model)
        yield Declined("everything", "nothing to do")

    model = chain()
    before = content(model)
    with pytest.raises(PassFailed, match="edited the model without yielding a rewrite"):
        run(model, [Scripted(script)])
    assert content(model) == before


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


def test_an_instrument_that_fails_names_the_pass_it_looked_at() -> None:
    class No(Instrument):
        def after(self, step: Step) -> None:
            if step.work.name == "scale":
                raise CheckFailed("no good")

    with pytest.raises(PassFailed, match="scale failed, after drop_identity: no good"):
        run(chain(), [DropIdentity(), Scale()], instruments=[No()])


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


def test_nodes_out_of_order_are_put_in_order_and_others_stay() -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        def apply() -> None:
            first = model.graph.node("first")
            model.graph.remove(first)
            model.graph.append(first)

        yield Rewrite("first", "to confuse", apply)

    result = run(chain(), [Scripted(script)])
    assert [node.name for node in result.model.graph] == [
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
    ]


def test_a_model_that_comes_out_of_order_is_accepted() -> None:
    model = chain()
    last = model.graph.node("fifth")
    model.graph.remove(last)
    model.graph.insert_before(model.graph.node("first"), last)
    assert ops(run(model, [DropIdentity()]).model) == ["Mul", "Add", "Relu"]


def make_cycle(model: ir.Model) -> None:
    model.graph.node("first").replace_input_with(0, model.graph.node("third").outputs[0])


def leave_dangling(model: ir.Model) -> None:
    model.graph.remove(model.graph.node("third"))


def lose_weight(model: ir.Model) -> None:
    del model.graph.initializers["w"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (make_cycle, "has a cycle"),
        (leave_dangling, "node 'fourth' reads 'h2', which only a removed node provides"),
        (lose_weight, "node 'first' reads 'w', which nothing provides"),
    ],
)
def test_a_graph_that_no_order_makes_right_is_the_passs_failure(edit: Any, said: str) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        yield Rewrite("first", "to break it", lambda: edit(model))

    with pytest.raises(PassFailed, match=said):
        run(chain(), [Scripted(script)])


def test_a_model_that_is_broken_before_is_not_a_passs_failure() -> None:
    model = chain()
    make_cycle(model)
    with pytest.raises(GraphoptError, match="broken before any pass: chain has a cycle") as caught:
        run(model, [DropIdentity()])
    assert not isinstance(caught.value, PassFailed)


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
