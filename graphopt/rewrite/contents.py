"""The elements of small integer tensors: shapes and axes on their way through a graph.

ONNX's inference follows such data too (`data_prop`), but it keeps them to itself; and it drops what
it cannot name. Here an element is a number, the symbol of a size, or unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant, integers, is_op
from graphopt.rewrite.dims import Dim, Dims, static

_MAX_ELEMENTS = 64


class Contents:
    """Elements of integer tensors of rank 0 and 1, by value.

    Args:
        shapes: What is known of shapes.
    """

    def __init__(self, shapes: Mapping[ir.Value, Dims]) -> None:
        self._shapes = shapes
        self._elements: dict[ir.Value, Dims] = {}

    def of(self, value: ir.Value | None) -> Dims | None:
        """Return the elements of a tensor, flattened; None where they are not followed."""
        if value is None:
            return None
        known = self._elements.get(value)
        return known if known is not None else integers(value, at_most=_MAX_ELEMENTS)

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the sizes of a tensor."""
        if value is None:
            return None
        tensor = constant(value)
        if tensor is not None:
            return tuple(int(size) for size in tensor.shape.numpy())
        return self._shapes.get(value)

    def visit(self, node: ir.Node) -> None:
        """Follow the data of one node, whose inputs were visited before."""
        rule = _RULES.get(node.op_type)
        if rule is None or not is_op(node, node.op_type) or not node.outputs:
            return
        elements = rule(self, node)
        if elements is not None and len(elements) <= _MAX_ELEMENTS:
            self._elements[node.outputs[0]] = elements

    def learn(self, value: ir.Value, like: ir.Value) -> None:
        """Say that a new value holds what another does."""
        if like in self._elements:
            self._elements[value] = self._elements[like]


_Rule = Callable[[Contents, ir.Node], Dims | None]


def _shape(known: Contents, node: ir.Node) -> Dims | None:
    dims = known.shape(node.inputs[0])
    if dims is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(dims))
    return dims[slice(start, end)] if start is not None and end is not None else None


def _size(known: Contents, node: ir.Node) -> Dims | None:
    sizes = static(known.shape(node.inputs[0]))
    return None if sizes is None else (math.prod(sizes),)


def _same(known: Contents, node: ir.Node) -> Dims | None:
    return known.of(node.inputs[0])


def _cast(known: Contents, node: ir.Node) -> Dims | None:
    target = node.attributes.get_int("to", 0)
    wide = target in (ir.DataType.INT64, ir.DataType.INT32)
    return known.of(node.inputs[0]) if wide else None


def _regroup(known: Contents, node: ir.Node) -> Dims | None:
    """Squeeze, Unsqueeze and Reshape keep the elements, as long as the rank stays 0 or 1."""
    shape = known.shape(node.outputs[0])
    return known.of(node.inputs[0]) if shape is not None and len(shape) <= 1 else None


def _gather(known: Contents, node: ir.Node) -> Dims | None:
    elements, indices = known.of(node.inputs[0]), integers(node.inputs[1])
    index_shape = known.shape(node.inputs[1])
    if elements is None or indices is None or index_shape is None or len(index_shape) > 1:
        return None
    if any(not -len(elements) <= index < len(elements) for index in indices):
        return None
    return tuple(elements[index] for index in indices)


def _concat(known: Contents, node: ir.Node) -> Dims | None:
    joined: list[Dim] = []
    for value in node.inputs:
        elements = known.of(value)
        if elements is None:
            shape = known.shape(value)
            if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
                return None
            elements = (None,) * min(shape[0], _MAX_ELEMENTS + 1)
        joined.extend(elements)
    return tuple(joined)


def _slice(known: Contents, node: ir.Node) -> Dims | None:
    elements = known.of(node.inputs[0])
    if elements is None or len(node.inputs) < 3:
        return None
    starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else (1,)
    if starts is None or ends is None or steps is None:
        return None
    if not len(starts) == len(ends) == len(steps) == 1 or steps[0] < 1:
        return None
    return elements[_bound(starts[0], len(elements)) : _bound(ends[0], len(elements)) : steps[0]]


def _bound(index: int, size: int) -> int:
    return max(0, min(size, index + size if index < 0 else index))


def _arithmetic(known: Contents, node: ir.Node) -> Dims | None:
    left, right = known.of(node.inputs[0]), known.of(node.inputs[1])
    if left is None or right is None:
        return None
    count = max(len(left), len(right))
    if {len(left), len(right)} - {1, count}:
        return None
    left, right = left * (count // len(left)), right * (count // len(right))
    return tuple(_combine(node.op_type, a, b) for a, b in zip(left, right, strict=True))


def _combine(op_type: str, left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return _compute(op_type, left, right)
    if op_type in ("Mul", "Div") and right == 1:
        return left
    if op_type in ("Add", "Sub") and right == 0:
        return left
    if (op_type, left) in (("Mul", 1), ("Add", 0)):
        return right
    return None


def _compute(op_type: str, left: int, right: int) -> int | None:
    if op_type == "Div":
        # Integer division of ONNX cuts towards zero; sizes are not negative.
        return left // right if right > 0 and left >= 0 else None
    result = {"Mul": left * right, "Add": left + right, "Sub": left - right}[op_type]
    return result if abs(result) < np.iinfo(np.int64).max else None


_RULES: dict[str, _Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Squeeze": _regroup,
    "Unsqueeze": _regroup,
    "Reshape": _regroup,
    "Flatten": _regroup,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
}
