"""Operators that compute with integers of known scales, and their equals on floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant
from graphopt.rewrite.grid import Grid, limits
from passes.quantize.dequantize.reals import grid_from, real


@dataclass(frozen=True)
class Quantized:
    """How a value of integers stands for real numbers.

    Args:
        scale: The value that holds the scale.
        zero_point: The value that holds the zero point; None: 0.
    """

    scale: ir.Value | None
    zero_point: ir.Value | None

    @classmethod
    def of(cls, node: ir.Node, scale: int, zero_point: int) -> Quantized:
        """Read two inputs of a node."""
        point = node.inputs[zero_point] if zero_point < len(node.inputs) else None
        return cls(node.inputs[scale], point)

    def equals(self, other: Quantized) -> bool:
        """Whether both stand for the same numbers."""
        pairs = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        return all(_equal(*pair) for pair in pairs)

    @property
    def is_one_for_all(self) -> bool:
        """Whether it is known and the same for all elements."""
        scale, point = constant(self.scale), constant(self.zero_point)
        known = scale is not None and (self.zero_point is None or point is not None)
        return known and scale is not None and scale.size == 1

    @property
    def low(self) -> float | None:
        """The smallest number; None where it is not known, or one for each channel."""
        return self._bound(0)

    @property
    def high(self) -> float | None:
        """The largest number, likewise."""
        return self._bound(1)

    def _bound(self, end: int) -> float | None:
        scale, point = constant(self.scale), constant(self.zero_point)
        if scale is None or point is None or scale.size != 1 or not point.dtype.is_integer():
            return None
        bound = limits(point.dtype)[end]
        return (bound - float(point.numpy().reshape(()))) * float(scale.numpy().reshape(()))

    def real(self, stored: ir.Value, axis: int | None) -> ir.TensorProtocol | None:
        """Return the real numbers that a constant stands for; None where one is computed."""
        tensor, scale, point = constant(stored), constant(self.scale), constant(self.zero_point)
        if tensor is None or scale is None or (self.zero_point is not None and point is None):
            return None
        return real(tensor, grid_from(tensor, scale, point, axis))


def _equal(first: ir.Value | None, second: ir.Value | None) -> bool:
    if first is second:
        return True
    one, other = constant(first), constant(second)
    if one is None and other is None:
        return False
    if one is None or other is None:
        given = one if other is None else other
        absent = first is None or second is None
        return absent and given is not None and not given.numpy().astype(np.float64).any()
    return np.array_equal(one.numpy().reshape(-1), other.numpy().reshape(-1))


@dataclass(frozen=True)
class Operand:
    """Data that an operator reads as integers.

    Args:
        data: Which input it is.
        scale: Which input is its scale; the one behind it is its zero point.
        axis: Along which axis scales of a constant lie; None: there is one.
    """

    data: int
    scale: int
    axis: int | None = None


@dataclass(frozen=True)
class Operator:
    """An operator on integers.

    Args:
        float_op: Its equal on floats.
        operands: What it reads as integers.
        result: Which input is the scale of what it writes; the zero point is behind it.
        bias: The input that holds a bias of int32 with the scale of both factors; None: none.
        dropped: Attributes that the equal does not have.
        variadic: Whether operands go on in threes to the last input.
    """

    float_op: str
    operands: tuple[Operand, ...]
    result: int
    bias: int | None = None
    dropped: tuple[str, ...] = ()
    variadic: bool = False

    def reads(self, node: ir.Node) -> tuple[Operand, ...]:
        """Return the operands of a node."""
        if not self.variadic:
            return self.operands
        first = self.operands[0].data
        return tuple(Operand(n, n + 1) for n in range(first, len(node.inputs), 3))

    def data(self, node: ir.Node) -> list[int]:
        """Return which inputs of a node are data."""
        return [operand.data for operand in self.reads(node)]

    def written(self, node: ir.Node) -> Quantized:
        """Return the scale of what a node writes."""
        return Quantized.of(node, self.result, self.result + 1)

    def refusal(self, node: ir.Node) -> str | None:
        """Say why a node has no equal on floats."""
        if node.attributes.get_int("channels_last", 0):
            return f"{node.op_type} {node.name} has its channels last"
        known = [constant(node.inputs[operand.data]) for operand in self.reads(node)]
        scales = [constant(node.inputs[operand.scale]) for operand in self.reads(node)]
        pairs = zip(known, scales, strict=True)
        if any(tensor is not None and scale is None for tensor, scale in pairs):
            return f"{node.op_type} {node.name} reads a constant whose scale is computed"
        if self.has_bias(node) and self.real_bias(node) is None:
            return f"the bias of {node.op_type} {node.name} is computed"
        return None

    def has_bias(self, node: ir.Node) -> bool:
        """Whether a node adds a bias."""
        return (
            self.bias is not None
            and self.bias < len(node.inputs)
            and node.inputs[self.bias] is not None
        )

    def real_bias(self, node: ir.Node) -> ir.TensorProtocol | None:
        """Return the bias of a node as real numbers: its scale is that of both factors."""
        stored = constant(node.inputs[self.bias]) if self.bias is not None else None
        scales = [constant(node.inputs[operand.scale]) for operand in self.operands[:2]]
        if stored is None or any(scale is None for scale in scales):
            return None
        first, second = (scale.numpy().reshape(-1) for scale in scales if scale is not None)
        product = first * second
        if product.size == 1:
            return real(stored, Grid(stored.dtype, product.reshape(())))
        return real(stored, Grid(stored.dtype, product, axis=0))

    def attributes(self, node: ir.Node) -> Sequence[ir.Attr]:
        """Return the attributes of the equal."""
        gone = {*self.dropped, "channels_last"}
        return [value for name, value in node.attributes.items() if name not in gone]


def _binary(float_op: str) -> Operator:
    return Operator(float_op, (Operand(0, 1), Operand(3, 4)), result=6)


def _unary(float_op: str, *, dropped: tuple[str, ...] = ()) -> Operator:
    return Operator(float_op, (Operand(0, 1),), result=3, dropped=dropped)


OPERATORS: dict[str, Operator] = {
    "QLinearConv": Operator("Conv", (Operand(0, 1), Operand(3, 4, axis=0)), result=6, bias=8),
    "QLinearMatMul": Operator("MatMul", (Operand(0, 1), Operand(3, 4, axis=-1)), result=6),
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearSoftmax": _unary("Softmax", dropped=("opset",)),
    "QLinearConcat": Operator("Concat", (Operand(2, 3),), result=0, variadic=True),
}
"""ONNX's and com.microsoft's operators by name; no other domain has these."""

Build = Callable[[ir.Node], ir.Value]
