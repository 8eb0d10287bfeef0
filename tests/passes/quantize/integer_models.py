"""Models with weights of a seed, and what they compute with weights on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graphopt.pipeline import manager
from graphopt.pipeline.contract import Context, Pass
from graphopt.pipeline.result import StepRecord
from graphopt.rewrite.grid import Grid, extent, grid_for
from graphopt.runtime.session import Session

Array = npt.NDArray[Any]
Feed = dict[str, Array]


def model_of(body: str, opset: int = 17, ir_version: int = 8) -> ir.Model:
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    text = body if body.lstrip().startswith("<") else f"{header}\n{body}"
    # Outputs are written without a type where the nodes say it.
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    del proto.graph.value_info[:]
    return ir.from_proto(proto)


def with_weights(body: str, opset: int = 17, **weights: Array) -> ir.Model:
    """Parse a graph whose initializers `name` are declared as zeros, and fill them."""
    model = model_of(body, opset)
    for name, array in weights.items():
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(array, name=name)
    return model


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def declared(name: str, array: Array, element: str = "float") -> str:
    sizes = ", ".join(map(str, array.shape))
    zeros = ", ".join("0" for _ in range(array.size))
    return f"{element}[{sizes}] {name} = {{{zeros}}}"


def run_pass(
    model: ir.Model, work: Pass, context: Context | None = None
) -> tuple[ir.Model, StepRecord]:
    result = manager.run(model, [work], context or Context())
    onnx.checker.check_model(ir.to_proto(result.model))
    return result.model, result.steps[0]


def on_runtime(model: ir.Model, feed: Feed, optimization: str = "none") -> list[Array]:
    return [np.asarray(out) for out in Session(model, optimization=optimization).run(feed).values()]


def on_reference(model: ir.Model, feed: Feed) -> list[Array]:
    return [np.asarray(out) for out in ReferenceEvaluator(ir.to_proto(model)).run(None, feed)]


def grid(array: Array, dtype: str, axis: int | None, block_size: int, *, symmetric: bool) -> Grid:
    """The grid of the range of an array."""
    low, high = extent(array, axis, block_size)
    kind = ir.DataType[dtype.upper()]
    return grid_for(low, high, kind, symmetric=symmetric, axis=axis, block_size=block_size)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def floats_of(model: ir.Model) -> dict[str, Array]:
    """The float initializers of two and more axes."""
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and len(value.const_value.shape) > 1
    }
