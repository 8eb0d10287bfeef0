from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from edit_passes import Edit, data, labelled
from toys import DropIdentity, FalseScale, chain

from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.pipeline.instruments import (
    Compare,
    LatencyGuard,
    MetricGuard,
)
from graphopt.pipeline.interface import interface_change
from graphopt.pipeline.manager import PassFailed, run
from passes.quantize.to_float16 import ToFloat16
from passes.quantize.to_float32 import ToFloat32


class NewInterface(Edit):
    name: ClassVar[str] = "new_interface"
    keeps_interface: ClassVar[bool] = False


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
