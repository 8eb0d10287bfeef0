"""Layers to prune, and how the tests of pruning run the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Rewrite
from passes.threshold import Threshold

TEXT = Path(__file__).resolve().parents[3] / "fixtures" / "text"
Array = np.ndarray[Any, np.dtype[Any]]


def dense(*arrays: Array, op: str = "MatMul") -> ir.Model:
    """Chain layers; the shapes need not fit each other, nothing is run."""
    value = source = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    nodes, initializers = [], []
    for index, array in enumerate(arrays):
        tensor = ir.tensor(array, name=f"w{index}")
        weight = ir.Value(
            name=tensor.name,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
        )
        initializers.append(weight)
        nodes.append(ir.Node("", op, [value, weight], name=f"layer{index}"))
        value = nodes[-1].outputs[0]
        value.name = f"y{index}"
    graph = ir.Graph(
        [source], [value], nodes=nodes, initializers=initializers, opset_imports={"": 21}
    )
    return ir.Model(graph, ir_version=10)


def run(
    model: ir.Model, context: Context | None = None, **parameters: Any
) -> tuple[list[Rewrite], dict[str, str]]:
    """Apply a pass; return its rewrites and its declines."""
    rewrites, declined = [], {}
    for one in Threshold(**parameters).rewrites(model, context or Context()):
        if isinstance(one, Rewrite):
            one.apply()
            rewrites.append(one)
        else:
            assert isinstance(one, Declined)
            declined[one.at] = one.why
    return rewrites, declined


def contents(model: ir.Model) -> list[Array]:
    values = model.graph.initializers.values()
    return [value.const_value.numpy() for value in values if value.const_value is not None]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def read(name: str) -> ir.Model:
    return ir.from_onnx_text((TEXT / f"{name}.onnxtxt").read_text())
