"""One node with its inputs at hand, and what computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import Array
from passes.cleanup.sites import int_setting

PLAIN_TYPES = frozenset(
    {
        ir.DataType.BOOL,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
        ir.DataType.FLOAT16,
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
    }
)
"""Element types that NumPy has, and that pass to ONNX Runtime and back as they are."""


@dataclass(frozen=True)
class Call:
    """One node with its inputs at hand.

    Args:
        node: The node.
        inputs: Its inputs; None where one is left out.
        opset: Version of the operator set it is written in.
        limit: The most bytes its output may have.
    """

    node: ir.Node
    inputs: Sequence[Array | None]
    opset: int
    limit: int

    def input(self, index: int) -> Array | None:
        """Return an input that the node may leave out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def integer(self, attribute: str, default: int) -> int:
        """Return an integer attribute (those of functions are never evaluated)."""
        known = int_setting(self.node, attribute, default)
        return default if known is None else known

    def integers(self, attribute: str, index: int | None = None) -> tuple[int, ...] | None:
        """Return integers that an attribute or, in newer opsets, an input holds."""
        if attribute in self.node.attributes:
            return tuple(self.node.attributes[attribute].as_ints())
        known = None if index is None else self.input(index)
        return None if known is None else tuple(int(number) for number in known.reshape(-1))

    def fits(self, shape: Sequence[int], itemsize: int) -> bool:
        """Whether a result of this size may be allocated."""
        return math.prod(shape) * itemsize <= self.limit


Kernel = Callable[[Call], Array | None]
"""Computes the only output of a node; None where it does not cover it."""


def first(call: Call) -> Array:
    """Return the first input, which every operator here has."""
    array = call.input(0)
    if array is None:
        raise ValueError(f"{call.node.name!r} lacks its first input")
    return array
