"""Which layers read a weight as the right factor of a matrix product, and how it lies there."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import is_op
from graphopt.rewrite.layers import Role
from graphopt.rewrite.weights import Use, Weight


@dataclass(frozen=True)
class Products:
    """The matrix products that read a weight.

    Args:
        uses: The layers: MatMul or Gemm, the weight being the second input.
        dtype: The type in which they read it.
        transposed: Whether it is stored as (columns, summed) and not as (summed, columns).
    """

    uses: tuple[Use, ...]
    dtype: ir.DataType
    transposed: bool


def products(weight: Weight) -> Products | str:
    """Find the layers that read a weight; rows picked from a table do not count.

    Returns:
        A string, in one clause, where one of them is no product that ONNX Runtime fuses with the
        DequantizeLinear in front of it.
    """
    uses = tuple(use for use in weight.uses if use.role is not Role.EMBEDDING)
    if not uses:
        return "no layer multiplies with it"
    if len(weight.tensor.shape) != 2:
        return "it is no matrix"
    ways = set()
    for use in uses:
        why = _objection(use, weight)
        if why is not None:
            return why
        ways.add((_dtype_at(use.node, 1, weight), use.axes.output == 0))
    if len(ways) > 1:
        return "its readers want it in different layouts"
    dtype, transposed = ways.pop()
    if dtype is None:
        return "it reaches a layer in a function"
    return Products(uses, dtype, transposed)


def _objection(use: Use, weight: Weight) -> str | None:
    node = use.node
    if not is_op(node, "MatMul", "Gemm"):
        return f"{node.op_type} computes with floats"
    if use.slot.activation is None or use.slot.activation.input != 0:
        return "it is the left factor"
    if use.axes.output is None or len(use.axes.reduction) != 1:
        return "it is no matrix to its reader"
    # Its DequantizeLinear in a body would fail: ONNX Runtime looks for the integers in the body.
    if node.graph is not weight.scope.graph:
        return "it is read in a body around which it stands"
    if node.op_type == "Gemm" and not _is_plain(node):
        return "a Gemm with alpha, beta or transA computes with floats"
    return None


def _is_plain(node: ir.Node) -> bool:
    numbers = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return all(number == 1.0 for number in numbers) and not node.attributes.get_int("transA", 0)


def _dtype_at(node: ir.Node, index: int, weight: Weight) -> ir.DataType | None:
    """Return the type in which an input reads a weight; None where the way is not followed."""
    value = node.inputs[index]
    while value is not None and value is not weight.value:
        producer = value.producer()
        if producer is None or is_op(producer, "CastLike"):
            return None
        if is_op(producer, "Cast"):
            return ir.DataType(producer.attributes.get_int("to", 1) or 1)
        value = producer.inputs[0]
    return weight.dtype


def way_to(node: ir.Node, index: int, weight: Weight) -> tuple[ir.Node, ...] | None:
    """Return the nodes between a weight and an input, the last one first; None: not followed."""
    nodes: list[ir.Node] = []
    value = node.inputs[index]
    while value is not weight.value:
        producer = None if value is None else value.producer()
        if producer is None or not producer.inputs:
            return None
        nodes.append(producer)
        value = producer.inputs[0]
    return tuple(nodes)
