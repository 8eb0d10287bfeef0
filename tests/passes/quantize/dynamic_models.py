"""Models that are quantized with scales of each run, and numpy's account of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.model import to_proto
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Rewrite
from passes.quantize.dynamic import QuantizeDynamic

Array = npt.NDArray[Any]
HEADER = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'


def parsed(text: str, **tensors: Array) -> ir.Model:
    """Parse text; arrays become initializers of the main graph."""
    model = ir.from_onnx_text(text if text.lstrip().startswith("<") else HEADER + text)
    for name, array in tensors.items():
        value = next(
            value
            for scope in scopes(model)
            for node in scope.graph
            for value in node.inputs
            if value is not None and value.name == name
        )
        _become(model, value, ir.tensor(array, name=name))
    return model


def _become(model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.const_value = tensor
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    model.graph.register_initializer(value)


def quantize(model: ir.Model, **parameters: Any) -> list[Rewrite | Declined]:
    said = []
    for step in QuantizeDynamic(**parameters).rewrites(model, Context()):
        said.append(step)
        if isinstance(step, Rewrite):
            step.apply()
    return said


def declined(said: list[Rewrite | Declined]) -> list[str]:
    return [step.why for step in said if isinstance(step, Declined)]


def run(model: ir.Model, **feeds: Array) -> list[Array]:
    ort.set_default_logger_severity(4)
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=not model.functions)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for scope in scopes(model) for node in scope.graph)


def noise(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def activation(x: Array) -> Array:
    """What is left of an activation, after ONNX's DynamicQuantizeLinear."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32(high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def weight(w: Array, axis: int | None, steps: int = 127) -> Array:
    """What is left of a weight: symmetric, `steps` on each side."""
    rest = None if axis is None else tuple(a for a in range(w.ndim) if a != axis % w.ndim)
    scale = np.abs(w).max(axis=rest, keepdims=True) / steps
    scale = np.where(scale == 0, 1, scale)
    return np.rint(w / scale) * scale
