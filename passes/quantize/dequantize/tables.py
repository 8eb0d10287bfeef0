"""Tables of integers whose picked rows are made real again behind a Gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.selection import address
from passes.quantize.dequantize.reals import grid_from
from passes.quantize.dequantize.restored import Restored
from passes.quantize.dequantize.sites import Site, Wish, around, take_over


@dataclass(frozen=True)
class _Table:
    """What a node makes real numbers of.

    Args:
        stored: The integers, (rows, columns).
        scale: Their scales.
        zero_point: Their zero points; None: 0.
        axis: 0 where each row has its scale, 1 for blocks; None: one for all.
        block_size: How many columns share a scale of a row; 0: all.
        picks: Which rows.
    """

    stored: ir.TensorProtocol
    scale: ir.TensorProtocol
    zero_point: ir.TensorProtocol | None
    axis: int | None
    block_size: int
    picks: ir.Value | None


def rewrites(model: ir.Model, wish: Wish, restored: Restored) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per node that scales rows picked from integers.

    Args:
        model: The model.
        wish: What is asked for.
        restored: Tables that are floats again.
    """
    for scope in list(scopes(model)):
        for node in list(scope.graph):
            if node.graph is None or not is_op(node, "DequantizeLinear", "Mul"):
                continue
            table = _read(node)
            if table is None or not wish.chooses(scope, around(node)):
                continue
            yield Rewrite(
                address(node, scope),
                f"rows picked from {table.stored.dtype.name} {table.stored.name}",
                partial(_restore, Site(model, scope), node, table, restored),
            )


def _read(node: ir.Node) -> _Table | None:
    if is_op(node, "DequantizeLinear"):
        return _of_dequantize_linear(node)
    for value, scale in (tuple(node.inputs), tuple(reversed(node.inputs))):
        found = _of_product(value, scale)
        if found is not None:
            return found
    return None


def _of_product(value: ir.Value | None, scale: ir.Value | None) -> _Table | None:
    zero_point = None
    producer = None if value is None else value.producer()
    if producer is not None and is_op(producer, "Sub"):
        zero_point = _before_cast(producer.inputs[1])
        producer = None if producer.inputs[0] is None else producer.inputs[0].producer()
    if producer is None or not is_op(producer, "Cast"):
        return None
    return _joined(producer.inputs[0], scale, zero_point, per_row=True)


def _before_cast(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer is not None and is_op(producer, "Cast") else value


def _of_dequantize_linear(node: ir.Node) -> _Table | None:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    block_size = node.attributes.get_int("block_size", 0) or 0
    if block_size and node.attributes.get_int("axis", 1) != -1:
        return None
    return _joined(node.inputs[0], node.inputs[1], zero_point, per_row=False, block_size=block_size)


def _joined(
    rows: ir.Value | None,
    scale: ir.Value | None,
    zero_point: ir.Value | None,
    *,
    per_row: bool,
    block_size: int = 0,
) -> _Table | None:
    """Read rows, scales and zero points that are picked alike, or are the same for all rows."""
    source, picks = _picked(rows)
    stored = constant(source)
    if stored is None or not stored.dtype.is_integer() or len(stored.shape) < 2:
        return None
    one, point = constant(scale), constant(zero_point)
    if one is not None:
        known = one.size == 1 and (zero_point is None or point is not None)
        return _Table(stored, one, point, None, 0, picks) if known else None
    factors, points = _picked_alike(scale, picks), _picked_alike(zero_point, picks)
    if factors is None or (zero_point is not None and points is None):
        return None
    if block_size:
        return _Table(stored, factors, points, 1, block_size, picks)
    rows_alone = (stored.shape.numpy()[0], *[1] * (len(stored.shape) - 1))
    if not per_row or tuple(factors.shape.numpy()) != rows_alone:
        return None
    return _Table(stored, factors, points, 0, 0, picks)


def _picked_alike(value: ir.Value | None, picks: ir.Value | None) -> ir.TensorProtocol | None:
    source, picked = _picked(value)
    return constant(source) if picked is picks else None


def _picked(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Return what a Gather along axis 0 picks from, and what it picks."""
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Gather"):
        return None, None
    if producer.attributes.get_int("axis", 0):
        return None, None
    return producer.inputs[0], producer.inputs[1]


def _restore(site: Site, node: ir.Node, table: _Table, restored: Restored) -> None:
    grid = grid_from(table.stored, table.scale, table.zero_point, table.axis, table.block_size)
    key = (table.stored, table.scale, table.zero_point, None)
    rows = restored.value(site, node, key, grid)
    take_over(node, [site.node(node, "Gather", [rows, table.picks]).outputs[0]])
