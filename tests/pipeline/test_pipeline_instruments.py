from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest
from toys import DropIdentity, FalseScale, Scale, chain, ops

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.instruments import (
    Checker,
    Compare,
    Dump,
    LatencyGuard,
    MetricGuard,
    Statistics,
)
from graphopt.pipeline.instruments.checker import check_problem
from graphopt.pipeline.instruments.compare import _Kept
from graphopt.pipeline.instruments.guard import latency_ratio
from graphopt.pipeline.interface import interface_change
from graphopt.pipeline.manager import PassFailed, run
from graphopt.runtime import session
from graphopt.runtime.feeds import Feeds
from passes.quantize.to_float16 import ToFloat16
from passes.quantize.to_float32 import ToFloat32


@dataclass(frozen=True)
class Edit(Pass):
    """Makes one edit that a test wants."""

    name: ClassVar[str] = "edit"
    effect: ClassVar[Effect] = Effect.LOSSY

    edit: Any = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        yield Rewrite("here", "the test says so", lambda: self.edit(model))


class Exactly(Edit):
    name: ClassVar[str] = "exactly"
    effect: ClassVar[Effect] = Effect.EXACT


class NewInterface(Edit):
    name: ClassVar[str] = "new_interface"
    keeps_interface: ClassVar[bool] = False


def data(labels: Sequence[int] | None = None, samples: int = 6) -> Feeds:
    rows = np.random.default_rng(5).standard_normal((samples, 4)).astype(np.float32)
    return Feeds({"x": rows}, labels=None if labels is None else np.array(labels))


def wrong_attribute(model: ir.Model) -> None:
    model.graph.node("fifth").attributes["bogus"] = ir.AttrInt64("bogus", 1)


def wrong_type(model: ir.Model) -> None:
    model.graph.initializers["b"].const_value = ir.tensor(np.ones(4, np.int64), name="b")
    model.graph.initializers["b"].dtype = ir.DataType.INT64


def wrong_operator(model: ir.Model) -> None:
    model.graph.node("fifth").op_type = "Rleu"


@pytest.mark.parametrize("edit", [wrong_attribute, wrong_type, wrong_operator])
def test_the_checker_fails_a_pass_that_leaves_an_invalid_model(edit: Any) -> None:
    with pytest.raises(PassFailed, match=r"edit\(.*\) failed.*onnx.checker refuses the result"):
        run(chain(), [Edit(edit)], instruments=[Checker()])


def test_the_checker_looks_into_bodies_and_functions() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        main (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = yes () => (float[2] t) { t = own.Twice(x) },
                else_branch = no () => (float[2] e) { [inner] e = Abs(x) }
            >
        }
        <domain: "own", opset_import: ["": 17]>
        Twice (v) => (w) { w = Add(v, v) }
        """
    )
    assert check_problem(model, full=True) is None
    twin = model.clone()
    twin.graph[0].attributes["else_branch"].as_graph()[0].op_type = "Sba"
    assert "Sba" in str(check_problem(twin, full=False))
    twin = model.clone()
    next(iter(twin.functions.values()))[0].op_type = "Dad"
    assert "Dad" in str(check_problem(twin, full=False))


def test_the_checker_tolerates_contrib_operators() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main (float[2] x) => (float[2] y) { y = com.microsoft.FastGelu(x) }
        """
    )
    assert check_problem(model, full=True) is None


def test_the_checker_takes_models_above_2_gb_and_reads_no_weight() -> None:
    def never() -> ir.TensorProtocol:
        raise AssertionError("the checker read a weight")

    model = chain()
    big = ir.LazyTensor(never, ir.DataType.FLOAT, ir.Shape([1 << 10, 1 << 20]), name="big")
    value = ir.Value(name="big", shape=ir.Shape([1 << 10, 1 << 20]), const_value=big)
    value.dtype = ir.DataType.FLOAT
    model.graph.register_initializer(value)
    assert big.nbytes == 4 << 30
    assert check_problem(model, full=True) is None


def test_a_model_that_fails_the_checker_before_is_not_the_passs_fault() -> None:
    model = chain()
    wrong_operator(model)
    with pytest.raises(CheckFailed, match=r"before any pass.*--no-verify") as caught:
        run(model, [DropIdentity()], instruments=[Checker()])
    assert not isinstance(caught.value, PassFailed)


def test_a_model_that_only_fails_inference_is_held_to_the_rest() -> None:
    model = chain()
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE
    assert check_problem(model, full=True) is not None
    run(model, [DropIdentity()], instruments=[Checker()])
    with pytest.raises(PassFailed):
        run(model, [Edit(wrong_operator)], instruments=[Checker()])


@pytest.mark.parametrize("context", [Context(), Context(feeds=data())], ids=["seeded", "data"])
def test_compare_passes_what_is_exact_and_measures_what_is_lossy(context: Context) -> None:
    steps = run(chain(), [DropIdentity(), Scale(factor=1.5)], context, [Compare()]).steps
    assert [error.equal for error in steps[0].errors] == [True]
    (lossy,) = steps[1].errors
    assert not lossy.equal
    assert lossy.name == "y"
    assert 0 < lossy.sqnr_db < 20


@pytest.mark.parametrize("factor", [2.0, 1.001, float("nan"), float("inf")])
def test_an_exact_pass_that_changes_outputs_fails(factor: float) -> None:
    with pytest.raises(PassFailed, match="false_scale"):
        run(chain(), [FalseScale(factor=factor)], instruments=[Compare()])


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_any_pass_that_makes_nan_or_infinity_fails(factor: float) -> None:
    with pytest.raises(PassFailed, match=r"output 'y' has NaN or infinity"):
        run(chain(), [Scale(factor=factor)], instruments=[Compare()])


def test_a_lossy_pass_is_held_to_a_ratio_where_one_is_asked_for() -> None:
    run(chain(), [Scale(factor=1.01)], instruments=[Compare(min_sqnr=20.0)])
    with pytest.raises(PassFailed, match="SQNR"):
        run(chain(), [Scale(factor=1.5)], instruments=[Compare(min_sqnr=20.0)])


@pytest.mark.parametrize(
    ("width", "runs"), [(10, [9]), (100_000, [2, 2, 2, 2, 1]), (1 << 20, [2] * 4 + [1])]
)
def test_compare_runs_fewer_samples_at_once_where_they_are_large(
    width: int, runs: list[int]
) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    wide (float[N, W] x) => (float[N, W] y) { same = Identity (x) y = Neg (same) }
    """
    seen: list[int] = []
    original = session.Session.run

    def counted(self: session.Session, batch: Any) -> Any:
        seen.append(len(batch["x"]))
        return original(self, batch)

    context = Context(feeds=Feeds({"x": np.ones((9, width), np.float32)}))
    with mock.patch.object(session.Session, "run", counted):
        run(ir.from_onnx_text(text), [DropIdentity()], context, [Compare()])
    # Before the pass, and after it.
    assert seen == runs * 2


def rename_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "other"


def rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def fix_batch(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([1, 4])


def rename_dim(model: ir.Model) -> None:
    model.graph.outputs[0].shape = ir.Shape(["M", 4])


def drop_shape(model: ir.Model) -> None:
    model.graph.outputs[0].shape = None


def to_double(model: ir.Model) -> None:
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE


def add_output(model: ir.Model) -> None:
    model.graph.outputs.append(model.graph.node("third").outputs[0])


@pytest.mark.parametrize(
    "edit", [rename_input, rename_output, fix_batch, rename_dim, drop_shape, to_double, add_output]
)
def test_a_pass_that_changes_the_interface_fails(edit: Any) -> None:
    model = chain()
    assert interface_change(model, model) is None
    with pytest.raises(PassFailed, match="it changed the interface: "):
        run(model, [Edit(edit)], instruments=[Compare()])


@pytest.mark.parametrize("edit", [rename_input, rename_output, fix_batch])
def test_a_pass_that_declares_it_may_change_the_interface(edit: Any) -> None:
    result = run(chain(), [NewInterface(edit), DropIdentity()], instruments=[Compare()])
    assert result.steps[0].errors == ()
    assert [error.equal for error in result.steps[1].errors] == [True]


def test_an_input_that_loses_its_default_is_another_interface() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    main (float[2] x, float[2] w = {1.0, 2.0}) => (float[2] y) { y = Mul(x, w) }
    """
    before, after = ir.from_onnx_text(text), ir.from_onnx_text(text)
    assert interface_change(before, after) is None
    del after.graph.initializers["w"]
    assert interface_change(before, after) == "input 'w' had a default and has none"


UNKNOWN = """
<ir_version: 8, opset_import: ["": 17, "mars": 1]>
main (float[2] x) => (float[2] y) { y = mars.Rover(x) }
"""


def test_a_model_that_never_ran_is_not_the_passs_fault() -> None:
    with pytest.raises(CheckFailed) as caught:
        run(ir.from_onnx_text(UNKNOWN), [DropIdentity()], instruments=[Compare()])
    said = str(caught.value)
    assert said.startswith("the model does not run on ONNX Runtime before any pass: ")
    assert said.endswith("rewrite without comparing: --no-verify")
    assert "\n" not in said
    assert not isinstance(caught.value, PassFailed)


RANDOM = """
<ir_version: 8, opset_import: ["": 17]>
main (float[2] x) => (float[2] y, float[2] z)
<float[2] w = {1.0, 2.0}>
{
    [noise] n = RandomNormalLike(x)
    [sum] y = Add(x, n)
    z = Mul(x, w)
}
"""


def negate_twice(model: ir.Model) -> None:
    """Move the random node: ONNX Runtime seeds it by its place."""
    noise = model.graph.node("noise")
    once = ir.node("Neg", [noise.inputs[0]])
    twice = ir.node("Neg", once.outputs)
    model.graph.insert_before(noise, [once, twice])
    noise.replace_input_with(0, twice.outputs[0])


def test_outputs_that_are_random_by_themselves_are_not_held_against_a_pass() -> None:
    step = run(ir.from_onnx_text(RANDOM), [Exactly(negate_twice)], instruments=[Compare()]).steps[0]
    assert [error.name for error in step.errors] == ["y", "z"]
    assert step.errors[0].max_abs > 0.01
    assert step.errors[1].max_abs == 0
    with pytest.raises(PassFailed, match="output 'z'"):
        run(ir.from_onnx_text(RANDOM), [FalseScale(factor=2.0)], instruments=[Compare()])


@pytest.mark.parametrize("max_bytes", [1 << 20, 0])
def test_each_model_is_loaded_once(max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = session.Session.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(args)
        original(self, *args, **kwargs)

    monkeypatch.setattr(session.Session, "__init__", counting)
    nothing = DropIdentity()
    passes = [DropIdentity(), nothing, Scale(factor=2.0)]
    checks = [Compare(max_bytes=max_bytes)]
    steps = run(chain(), passes, Context(feeds=data()), checks).steps
    assert len(made) == 3
    assert steps[1].errors == ()
    assert steps[2].errors[0].max_abs > 0


def test_batches_are_compared_with_their_own_outputs() -> None:
    """The runtime may ask the model before the pass for more than the batches it was given."""
    context = Context(feeds=data(samples=9))
    slightly = FalseScale(factor=1.0001)
    for max_bytes in (0, 1 << 20):
        checks = [Compare(batch=2, max_bytes=max_bytes)]
        (step,) = run(chain(), [DropIdentity()], context, checks).steps
        assert step.errors[0].max_abs == 0
        assert step.errors[0].elements == 36
        with pytest.raises(PassFailed, match="false_scale"):
            run(chain(), [DropIdentity(), slightly], context, checks)


def test_data_that_does_not_fit_is_refused_before_any_pass() -> None:
    feeds = Feeds({"z": np.zeros((2, 4), np.float32)})
    with pytest.raises(GraphoptError) as caught:
        run(chain(), [DropIdentity()], Context(feeds=feeds), [Compare()])
    assert not isinstance(caught.value, PassFailed)


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


def labelled() -> Context:
    """Samples whose labels are the model's own answers: its accuracy is 1."""
    feeds = data(samples=32)
    x = feeds.arrays["x"]
    y = np.maximum(x * [1, -2, 3, -4] + [0.5, 0.25, 0.125, 1.0], 0)
    return Context(feeds=Feeds(feeds.arrays, labels=y.argmax(axis=1)))


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


def test_compare_still_holds_after_a_roll_back() -> None:
    passes = [Scale(factor=-1.0), DropIdentity()]
    result = run(chain(), passes, labelled(), [Compare(), MetricGuard("accuracy", 0.0)])
    assert result.kept_pipeline == "drop_identity"
    assert result.steps[1].errors[0].equal


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


def test_outputs_are_kept_only_as_long_as_they_fit() -> None:
    kept = _Kept(20)
    batch = {"y": np.zeros(2, np.float32), "none": None}
    for fit in (True, True, False, False):
        kept.add(batch)
        assert (kept.outputs is not None) is fit


@pytest.mark.parametrize("labels", [False, True])
def test_samples_follow_a_declared_change_of_the_inputs_type(labels: bool) -> None:
    context = labelled()
    instruments: list[Any] = [Compare(), LatencyGuard(1e9)]
    if labels:
        instruments.append(MetricGuard("accuracy", 0.5))
    passes = [ToFloat16(keep_io=False), DropIdentity(), ToFloat32(keep_io=False), DropIdentity()]
    result = run(chain(), passes, context, instruments)
    first, dropped, back, _ = result.steps
    assert result.model.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert first.rewrites
    assert first.rolled_back is None
    assert [error.equal for error in dropped.errors] == [True]
    assert back.rewrites


def test_later_passes_get_samples_of_the_new_type() -> None:
    seen = []

    @dataclass(frozen=True)
    class Look(Edit):
        name: ClassVar[str] = "look"

        def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
            assert context.feeds is not None
            seen.append(next(context.feeds.for_model(model).batches())["x"].dtype)
            yield Declined("here", "it only looks")

    run(chain(), [Look(), ToFloat16(keep_io=False), Look()], Context(feeds=data()), [Compare()])
    assert seen == [np.float32, np.float16]


def test_a_change_that_is_rolled_back_leaves_the_samples() -> None:
    passes = [ToFloat16(keep_io=False), ToFloat16(keep_io=False), DropIdentity()]
    ratios = iter([2.0, 2.0, 1.0])
    guard = LatencyGuard(1.0, lambda before, after, context: next(ratios))
    result = run(chain(), passes, Context(feeds=data()), [Compare(), guard])
    assert result.kept_pipeline == "drop_identity"
    assert result.steps[2].errors[0].equal


def test_a_reproducer_holds_samples_of_the_models_type(tmp_path: Path) -> None:
    passes = [ToFloat16(keep_io=False), FalseScale(factor=3.0)]
    with pytest.raises(PassFailed):
        run(chain(), passes, Context(feeds=data()), [Compare()], reproducers=tmp_path)
    (file,) = tmp_path.glob("*/feeds/*.npz")
    assert np.load(file)["x"].dtype == np.float16
