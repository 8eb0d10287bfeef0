"""Layers as products of matrices: weights as (outputs, inputs), and the moments of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.layer_moments import LayerMoments, Window
from graphopt.rewrite.weights import Use, Weight

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """How one layer multiplies a weight.

    Args:
        activation: What it is multiplied with.
        axis: The axis of channels of that.
        window: How a convolution moves; None for a product of matrices.
        output: The axis of output channels of the stored weight.
        shape: The shape of the stored weight.
    """

    activation: ir.Value
    axis: int
    window: Window | None
    output: int
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Into how many runs the channels are cut."""
        return 1 if self.window is None else self.window.groups

    @property
    def length(self) -> int:
        """How many inputs are summed for one output."""
        size = 1
        for axis, length in enumerate(self.shape):
            size *= 1 if axis == self.output else length
        return size

    def moments(self) -> LayerMoments:
        """Return the statistic of what the weight is multiplied with."""
        return LayerMoments(self.axis, self.window)

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
        window = _window(use.node, shape)
        if isinstance(window, str) or (axes.output, axes.input) != (0, 1):
            return window if isinstance(window, str) else "its weight is stored in other axes"
        return Product(value, 1, window, 0, shape)
    if use.node.op_type not in ("MatMul", "Gemm"):
        return f"{use.node.op_type} is neither MatMul, Gemm nor Conv"
    if len(shape) != 2 or axes.output is None or axes.input is None:
        return "it is no matrix"
    return Product(value, activation.axis, None, axes.output, shape)


def _window(node: ir.Node, shape: tuple[int, ...]) -> Window | str:
    spatial = len(shape) - 2
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "its attributes are the function's"

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        known = node.attributes.get_ints(name, default)
        return tuple(known) if known is not None else default

    return Window(
        kernel=shape[2:],
        strides=ints("strides", (1,) * spatial),
        dilations=ints("dilations", (1,) * spatial),
        pads=ints("pads", (0,) * 2 * spatial),
        auto_pad=node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        groups=max(1, node.attributes.get_int("group", 1) or 1),
    )
