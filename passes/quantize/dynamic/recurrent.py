"""LSTM with integer weights, as ONNX Runtime's own operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from passes.quantize.dynamic.stored import Step, Stored
from passes.quantize.dynamic.writer import Writer

if TYPE_CHECKING:
    from passes.quantize.dynamic.layers import Layer

DOMAIN = "com.microsoft"


def write_lstm(layer: Layer, writer: Writer) -> None:
    """Replace an LSTM by com.microsoft's DynamicQuantizeLSTM.

    Its weights are (directions, input or hidden, 4 * hidden), the last two axes exchanged. Scales
    are (directions,) or (directions, 4 * hidden), and so are zero points.
    """
    node = layer.node
    inputs = [*node.inputs, *(None for _ in range(8 - len(node.inputs)))]
    scales: list[ir.Value | None] = []
    for index, weight in zip((1, 2), layer.weights, strict=True):
        inputs[index], *rest = _matrix(weight, writer)
        scales.extend(rest)
    outputs = [ir.Value(name=writer.fresh(value.name or "lstm")) for value in node.outputs]
    quantized = ir.Node(
        DOMAIN,
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
    )
    writer.insert(node, quantized)
    for old, new in zip(node.outputs, quantized.outputs, strict=True):
        writer.take_over(old, new)
    writer.use(DOMAIN, 1, layer.scope.graph)
    writer.remove(node)


def _matrix(weight: Stored, writer: Writer) -> list[ir.Value]:
    """Store one tensor of weights; return it, its scale and its zero point."""
    turned = Stored(weight.root, (*weight.steps, Step("Transpose", (0, 2, 1))))
    real = turned.array()
    grids = [writer.weight_type.grid(part, 1, symmetric=True) for part in real]
    stored = np.stack([grid.quantize(part) for grid, part in zip(grids, real, strict=True)])
    scale = np.stack([grid.scale for grid in grids]).astype(np.float32)
    middles = [0 if grid.zero_point is None else grid.zero_point for grid in grids]
    zero = np.stack([np.broadcast_to(m, scale.shape[1:]) for m in middles])
    base = weight.root.name or "weight"
    return [
        writer.beside(weight, f"{base}_{what}", ir.tensor(content))
        for what, content in (
            ("quantized", stored),
            ("scale", scale),
            ("zero_point", zero.astype(stored.dtype)),
        )
    ]
