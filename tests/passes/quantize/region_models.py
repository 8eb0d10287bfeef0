"""Small models in ONNX text, quantized on random feeds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Finding, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.quantize.quantize import Quantize
from passes.quantize.static.readback import Operator, operators

Array = np.ndarray[Any, np.dtype[Any]]


def parse(body: str, weights: dict[str, Array] | None = None, opset: int = 21) -> ir.Model:
    """Parse `main (...) => (...) { ... }`, with initializers beside it."""
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{body}')
    for name, array in (weights or {}).items():
        stored = next((v for v in model.graph.inputs if v.name == name), None)
        value = stored or _undefined(model, name)
        tensor = ir.Tensor(array, name=name)
        value.const_value = tensor
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        model.graph.register_initializer(value)
    return model


def _undefined(model: ir.Model, name: str) -> ir.Value:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.inputs:
            if value is not None and value.name == name:
                return value
    raise AssertionError(f"nothing reads {name}")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def quantized(
    model: ir.Model, feeds: dict[str, Array], quantize: Quantize | None = None
) -> tuple[ir.Model, list[Rewrite | Declined | Finding]]:
    """Return a quantized copy of a model, and what the pass said."""
    copy = snapshot(model)
    context = Context(feeds=Feeds(feeds).for_model(copy))
    said = []
    for item in (quantize or Quantize(mode="static", read_back=False)).rewrites(copy, context):
        said.append(item)
        if isinstance(item, Rewrite):
            item.apply()
    return copy, said


def left_float(model: ir.Model) -> list[Operator]:
    return [operator for operator in operators(model) if not operator.integers]


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def sqnr(reference: Array, candidate: Array) -> float:
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    return 10 * np.log10(float(np.square(reference.astype(np.float64)).sum()) / max(noise, 1e-30))


def run(model: ir.Model, feeds: dict[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(found) for name, found in Session(model).run(feeds).items()}
