"""A table that MatMulNBits multiplies with, and whose rows a Gather picks: stored once, packed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import is_unused, remove_unread
from graphopt.rewrite.weights import Weight
from passes.quantize.weights import packed
from passes.quantize.weights.building import Builder, behind
from passes.quantize.weights.readers import Products
from passes.quantize.weights.rows import Table, dtype_at, pickers


def objection(model: ir.Model, weight: Weight, products: Products, block_size: int) -> str | None:
    """Say why the packed integers of a table cannot be picked."""
    if not products.transposed:
        return "its rows are not the columns of the product"
    if int(weight.tensor.shape.numpy()[1]) % block_size:
        return f"its rows are not cut into blocks of {block_size}"
    shapes = Shapes.of(model)
    if any(shapes.rank(use.node.inputs[1]) is None for use in pickers(weight)):
        return "it is not known how many rows are picked"
    return None


def store(
    model: ir.Model, weight: Weight, grid: Grid, products: Products, wish: packed.Wish
) -> None:
    """Store a table of 8 bits for MatMulNBits, and let Gathers pick from the same integers.

    MatMulNBits wants (columns, blocks, block_size), which are the rows of the table in order.
    """
    shapes = Shapes.of(model)
    ranks = [shapes.rank(use.node.inputs[1]) or 0 for use in pickers(weight)]
    stored = packed.store(model, weight, grid, products, wish)
    # The constants must stand in front of the Gathers too, which a function puts in order.
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    offset = 1 << (int(grid.dtype.bitwidth) - 1) if grid.dtype.is_signed() else 0
    given = np.zeros(grid.scale.shape, np.int32) if grid.zero_point is None else grid.zero_point
    scale = builder.constant("row_scale", ir.Tensor(_per_row(grid.scale)))
    points = _per_row(given + offset).astype(np.uint8)
    zero_point = builder.constant("row_zero_point", ir.Tensor(points))
    columns = int(weight.tensor.shape.numpy()[1])
    table = Table(model, stored, scale, zero_point, columns=columns)
    for use, rank in zip(pickers(weight), ranks, strict=True):
        table.serve(use.node, use.scope, dtype_at(use, weight), rank)
    if is_unused(weight.value):
        remove_unread([weight.value])


def _per_row(numbers: Array) -> Array:
    return numbers.reshape(-1, 1, 1) if numbers.ndim else numbers
