"""Models with inputs fed, and with some or all of them held as constants."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from against_onnx_runtime import Array, compare, computed, expected, same

from graphopt.training import OnnxModule

OPSET = 23
"""Known to all supported versions of ONNX Runtime."""


def module(model: ir.Model) -> OnnxModule:
    return OnnxModule(model).eval()


def all_held(model: ir.Model, arrays: Any) -> ir.Model:
    """Turn all inputs into initializers, so that small ones are `Numbers` and no tensors."""
    proto = ir.to_proto(model)
    names = [each.name for each in proto.graph.input]
    del proto.graph.input[:]
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)
    )
    return ir.from_proto(proto)


def compare_all_ways(
    model: ir.Model, *arrays: Array, rtol: float = 1e-6, atol: float = 1e-6
) -> None:
    """Compare with ONNX Runtime: all inputs fed, all but the first held, and all held."""
    compare(model, *arrays, rtol=rtol, atol=atol)
    same(computed(all_held(model, arrays)), expected(model, *arrays), rtol, atol)
