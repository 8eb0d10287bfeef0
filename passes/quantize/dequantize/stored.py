"""Weights: constants of integers that nodes make real again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.passed import Quantization
from graphopt.rewrite.selection import address
from graphopt.rewrite.written_out import dequantization, scaled
from passes.quantize.dequantize.reals import grid_from
from passes.quantize.dequantize.restored import Restored
from passes.quantize.dequantize.sites import Site, Wish, around, take_over


def rewrites(model: ir.Model, wish: Wish, restored: Restored) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per DequantizeLinear, or Mul of a Cast, of a constant.

    Args:
        model: The model.
        wish: What is asked for.
        restored: Weights that are floats again.
    """
    for scope in list(scopes(model)):
        for node in list(scope.graph):
            if node.graph is None or not wish.chooses(scope, around(node)):
                continue
            found = _stored(node)
            if found is None:
                continue
            at = address(node, scope)
            if isinstance(found, str):
                yield Declined(at, found)
                continue
            tensor = found[0]
            yield Rewrite(
                at,
                f"{tensor.dtype.name} weight of {tensor.size} elements behind {node.op_type}",
                partial(_restore, Site(model, scope), node, found, restored),
                {"weight": at, "bytes": tensor.nbytes},
            )


_Found = tuple[ir.TensorProtocol, Quantization]


def _stored(node: ir.Node) -> _Found | str | None:
    """Return the integers that a node makes real numbers of, and how."""
    if is_op(node, "DequantizeLinear"):
        return _of_dequantize_linear(node)
    if not dequantization(node):
        return None
    return scaled(node) or "its scales lie as no quantization has them"


def _of_dequantize_linear(node: ir.Node) -> _Found | str | None:
    tensor, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if tensor is None:
        return None
    point = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = constant(point)
    if scale is None or (point is not None and zero_point is None):
        return "its scale or zero point is computed"
    axis = node.attributes.get_int("axis", 1)
    block_size = node.attributes.get_int("block_size", 0) or 0
    axis = 1 if axis is None else axis
    follows = scale.size > 1 or bool(block_size)
    return tensor, Quantization(scale, zero_point, axis if follows else None, block_size)


def _restore(site: Site, node: ir.Node, found: _Found, restored: Restored) -> None:
    tensor, how = found
    output = node.outputs[0]
    casts = [use.node for use in output.uses()]
    dtype = _cast_to(output)
    grid = grid_from(tensor, how.scale, how.zero_point, how.axis, how.block_size)
    value = restored.value(site, node, (tensor, how.scale, how.zero_point, dtype), grid)
    for reader in [node] if dtype is None else casts:
        take_over(reader, [value])


def _cast_to(output: ir.Value) -> ir.DataType | None:
    """Return the type that all readers cast a value to; None where not all do."""
    users = [use.node for use in output.uses()]
    if output.is_graph_output() or not all(is_op(user, "Cast") for user in users):
        return None
    types = {user.attributes.get_int("to", 1) or 1 for user in users}
    return ir.DataType(types.pop()) if len(types) == 1 else None
