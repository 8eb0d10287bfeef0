"""Layers as products of matrices: weights as (outputs, inputs), and the moments of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration import Patches, Rows, SecondMoments
from graphopt.rewrite.weights import Use, Weight

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """How one layer multiplies a weight.

    Args:
        activation: What it is multiplied with.
        rows: How the layer reads that.
        output: The axis of output channels of the stored weight.
        shape: The shape of the stored weight.
    """

    activation: ir.Value
    rows: Rows | Patches
    output: int
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Into how many runs the channels are cut."""
        return self.rows.groups

    @property
    def length(self) -> int:
        """How many inputs are summed for one output."""
        size = 1
        for axis, length in enumerate(self.shape):
            size *= 1 if axis == self.output else length
        return size

    def moments(self) -> SecondMoments:
        """Return the statistic of what the weight is multiplied with."""
        return SecondMoments(self.rows, most=None)

    def matrices(self, stored: Array) -> Array:
        """Return a stored tensor as (groups, outputs, inputs)."""
        rows = np.moveaxis(stored, self.output, 0)
        return rows.reshape(self.groups, rows.shape[0] // self.groups, -1)

    def stored(self, matrices: Array) -> Array:
        """Return (groups, outputs, inputs) as the tensor is stored."""
        others = [size for axis, size in enumerate(self.shape) if axis != self.output]
        rows = matrices.reshape(self.shape[self.output], *others)
        return np.ascontiguousarray(np.moveaxis(rows, 0, self.output))


def product(weight: Weight, use: Use) -> Product | str:
    """Say how a layer multiplies a weight, or why that is no product of two matrices."""
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    value, activation, axes = use.activation, use.slot.activation, use.axes
    if value is None or activation is None:
        return f"{use.node.op_type} keeps a state"
    if use.node.op_type == "Conv":
        patches = _patches(use.node, shape)
        if isinstance(patches, str) or (axes.output, axes.input) != (0, 1):
            return patches if isinstance(patches, str) else "its weight is stored in other axes"
        return Product(value, patches, 0, shape)
    if use.node.op_type not in ("MatMul", "Gemm"):
        return f"{use.node.op_type} is neither MatMul, Gemm nor Conv"
    if len(shape) != 2 or axes.output is None or axes.input is None:
        return "it is no matrix"
    return Product(value, Rows(activation.axis), axes.output, shape)


def _patches(node: ir.Node, shape: tuple[int, ...]) -> Patches | str:
    spatial = len(shape) - 2
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "its attributes are the function's"

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        known = node.attributes.get_ints(name, default)
        return tuple(known) if known is not None else default

    return Patches(
        kernel=shape[2:],
        strides=ints("strides", (1,) * spatial),
        dilations=ints("dilations", (1,) * spatial),
        pads=ints("pads", (0,) * 2 * spatial),
        auto_pad=node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        groups=max(1, node.attributes.get_int("group", 1) or 1),
    )
