from __future__ import annotations

from typing import Any, ClassVar
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest
from edit_passes import Edit, data, labelled
from toys import DropIdentity, FalseScale, Scale, chain

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Effect
from graphopt.pipeline.instruments import (
    Compare,
    MetricGuard,
)
from graphopt.pipeline.instruments.compare import _Kept
from graphopt.pipeline.manager import PassFailed, run
from graphopt.runtime import session
from graphopt.runtime.feeds import Feeds


class Exactly(Edit):
    name: ClassVar[str] = "exactly"
    effect: ClassVar[Effect] = Effect.EXACT


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


def test_compare_still_holds_after_a_roll_back() -> None:
    passes = [Scale(factor=-1.0), DropIdentity()]
    result = run(chain(), passes, labelled(), [Compare(), MetricGuard("accuracy", 0.0)])
    assert result.kept_pipeline == "drop_identity"
    assert result.steps[1].errors[0].equal


def test_outputs_are_kept_only_as_long_as_they_fit() -> None:
    kept = _Kept(20)
    batch = {"y": np.zeros(2, np.float32), "none": None}
    for fit in (True, True, False, False):
        kept.add(batch)
        assert (kept.outputs is not None) is fit
