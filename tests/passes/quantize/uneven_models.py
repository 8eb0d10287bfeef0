"""Models whose channels are not equally wide, and passes that are applied to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Pass, Rewrite
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds

Array = npt.NDArray[Any]
HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model_of(text: str, weights: dict[str, Array] | None = None, *, seed: int = 0) -> ir.Model:
    """Parse a graph; inputs other than `x` become weights, uneven by channel."""
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEADER + text)
    rng = np.random.default_rng(seed)
    kept = []
    for value in proto.graph.input:
        if value.name.startswith("x"):
            kept.append(value)
            continue
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        drawn = rng.standard_normal(shape)
        for axis in range(len(shape)):
            uneven = np.exp(1.5 * rng.standard_normal(shape[axis]))
            drawn *= uneven.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = np.asarray((weights or {}).get(value.name, drawn)).astype(dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def drawn_feeds(model: ir.Model, count: int, *, seed: int) -> Feeds:
    """Draw samples of all inputs; sizes that the model leaves open are `count`, too."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        assert value.dtype is not None
        sizes = [int(size) if isinstance(size, int) else count for size in value.shape]
        sizes[0] = count
        arrays[value.name] = rng.standard_normal(sizes).astype(value.dtype.numpy())
    return Feeds(arrays)


def array(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def applied(work: Pass, model: ir.Model, context: Context) -> tuple[list[Rewrite], dict[str, str]]:
    """Apply all rewrites; return them, and what was declined with its reason."""
    rewrites, declined = [], {}
    for step in work.rewrites(model, context):
        if isinstance(step, Rewrite):
            step.apply()
            rewrites.append(step)
        elif isinstance(step, Declined):
            declined[step.at] = step.why
    return rewrites, declined


def assert_equal(before: ir.Model, after: ir.Model, feeds: Feeds) -> None:
    """Assert that what came out is valid, and computes the same up to rounding."""
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for error in compare(before, after, feeds):
        assert error.equal, error
        assert error.sqnr_db > 100
