"""Nodes that compute `scale * x + shift` with constants: BatchNormalization, Mul, Div, Add, Sub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite.constants import array, constant, is_op, nbytes
from graphopt.rewrite.uses import is_unused
from passes.cleanup.sites import Site, int_setting

Wide = npt.NDArray[np.float64]
"""Constants are combined in double precision and rounded once, at the end."""

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

_CHANNEL_AXIS = 1
"""Of BatchNormalization, whatever the rank of its input is."""


@dataclass(frozen=True)
class Affine:
    """A node that computes `scale * data + shift`.

    Args:
        node: The node.
        data: The input that varies.
        scale: What `data` is multiplied with; None: 1.
        shift: What is added behind; None: 0.
        axis: The axis along which `scale` and `shift` lie; None: they broadcast as ONNX says.
    """

    node: ir.Node
    data: ir.Value
    scale: Wide | None
    shift: Wide | None
    axis: int | None = None

    @property
    def shift_name(self) -> str | None:
        """The name of the constant that is added."""
        index = 2 if self.axis is not None else 1 if self.node.inputs[0] is self.data else 0
        value = self.node.inputs[index]
        return None if value is None or self.shift is None else value.name

    @property
    def freed_bytes(self) -> int:
        """What a file loses with this node, its names and the constants that only it reads."""
        names = [
            self.node.name,
            *(value.name for value in (*self.node.inputs, *self.node.outputs) if value),
        ]
        total = len(self.node.op_type) + sum(len(name or "") for name in names)
        for value in self.node.inputs:
            tensor = constant(value)
            if value is not None and tensor is not None and len(value.uses()) == 1:
                total += nbytes(tensor)
        return total


@dataclass(frozen=True)
class Lane:
    """The channels that a constant has to lie along, to be folded.

    Args:
        axis: Of the tensor, counted from the front, or from the back if negative.
        channels: Its size there.
        rank: The rank of the tensor, where it is known.
        least_rank: The lowest rank that it may have.
    """

    axis: int
    channels: int
    rank: int | None
    least_rank: int

    def vector(self, affine: Affine, values: Wide | None) -> Wide | None:
        """Return `scale` or `shift` of an affine node as one number per channel.

        None where it varies along another axis, or would enlarge the tensor that it is applied to.
        """
        if values is None:
            return None
        if affine.axis is not None:
            fits = self.rank is not None and self.axis % self.rank == affine.axis
            return values if fits and values.shape == (self.channels,) else None
        rank = self.least_rank if self.rank is None else self.rank
        if values.ndim > rank:
            return None
        if values.size == 1:
            return np.full(self.channels, values.reshape(())[()], np.float64)
        if self.rank is None and self.axis >= 0:
            return None
        expected = [1] * rank
        expected[self.axis] = self.channels
        aligned = [1] * (rank - values.ndim) + list(values.shape)
        return values.reshape(self.channels) if aligned == expected else None


class NotAffineError(Exception):
    """Why a BatchNormalization does not scale and shift with constants."""


def affine(node: ir.Node, site: Site) -> Affine | None:
    """Read an affine node; None for other operators, and where no operand is constant.

    Raises:
        NotAffineError: It is a BatchNormalization that trains, or has computed statistics.
    """
    if is_op(node, "BatchNormalization"):
        return _batch_normalization(node, site)
    if is_op(node, *_ELEMENTWISE) and site.opset >= 7:
        return _elementwise(node)
    return None


def _batch_normalization(node: ir.Node, site: Site) -> Affine:
    refusal = _trains(node, site)
    if refusal is not None:
        raise NotAffineError(refusal)
    inputs = [array(value) for value in node.inputs[1:5]]
    data, epsilon = node.inputs[0], node.attributes.get("epsilon")
    if data is None or len(inputs) != 4 or any(values is None for values in inputs):
        raise NotAffineError("its scale, bias, mean and variance are not all constant")
    if epsilon is not None and epsilon.is_ref():
        raise NotAffineError("its epsilon is an attribute of the function")
    gain, bias, mean, variance = (np.asarray(values, np.float64) for values in inputs)
    with np.errstate(all="ignore"):
        # The attribute is a 32-bit float: 1e-5 by default.
        scale = gain / np.sqrt(
            variance + np.float32(1e-5 if epsilon is None else epsilon.as_float())
        )
        shift = bias - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise NotAffineError("its statistics give an infinite or undefined scale")
    return Affine(node, data, scale, shift, axis=_CHANNEL_AXIS)


def _trains(node: ir.Node, site: Site) -> str | None:
    """Say why a BatchNormalization is not the inference one over channels."""
    if any(output.name and not is_unused(output) for output in node.outputs[1:]):
        return "its statistics are read"
    if int_setting(node, "training_mode", 0) != 0:
        return "it is in training mode"
    if site.opset < 7 and int_setting(node, "is_test", 0) != 1:
        return "it is in training mode (is_test is not set)"
    if site.opset < 9 and int_setting(node, "spatial", 1) != 1:
        return "it normalizes every element apart (spatial is 0)"
    return None


def _elementwise(node: ir.Node) -> Affine | None:
    first, second = node.inputs
    if first is None or second is None:
        return None
    left, right = constant(first), constant(second)
    tensor = right if left is None else left
    if (left is None) == (right is None) or tensor is None or tensor.dtype not in FLOATS:
        return None
    values = np.asarray(tensor.numpy(), np.float64) if tensor.size <= _MOST_ELEMENTS else None
    if values is None or not np.isfinite(values).all():
        return None
    data = first if left is None else second
    return _ELEMENTWISE[node.op_type](node, data, values, left is not None)


_MOST_ELEMENTS = 1 << 20
"""Of a constant that can be one number per channel, with room to spare."""


def _product(node: ir.Node, data: ir.Value, values: Wide, is_left: bool) -> Affine:
    del is_left
    return Affine(node, data, values, None)


def _quotient(node: ir.Node, data: ir.Value, values: Wide, is_left: bool) -> Affine | None:
    if is_left or not values.all():
        return None
    return Affine(node, data, 1 / values, None)


def _sum(node: ir.Node, data: ir.Value, values: Wide, is_left: bool) -> Affine:
    del is_left
    return Affine(node, data, None, values)


def _difference(node: ir.Node, data: ir.Value, values: Wide, is_left: bool) -> Affine:
    if is_left:
        return Affine(node, data, np.array(-1.0), values)
    return Affine(node, data, None, -values)


_Reader = Callable[[ir.Node, ir.Value, Any, bool], Affine | None]

_ELEMENTWISE: dict[str, _Reader] = {
    "Mul": _product,
    "Div": _quotient,
    "Add": _sum,
    "Sub": _difference,
}
