"""Tables whose rows a Gather picks: integers are picked, and only they are made real again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.layers import Role
from graphopt.rewrite.uses import is_unused, remove, replace
from graphopt.rewrite.weights import Use, Weight
from passes.quantize.weights.building import Builder, behind
from passes.quantize.weights.folded import scales, take_over
from passes.quantize.weights.integers import integers, zero_points
from passes.quantize.weights.readers import way_to


def pickers(weight: Weight) -> tuple[Use, ...]:
    """Return the Gathers that pick rows of a weight."""
    return tuple(use for use in weight.uses if use.role is Role.EMBEDDING)


def objection(weight: Weight) -> str | None:
    """Say why the rows of a table cannot be picked as integers."""
    for use in pickers(weight):
        way = way_to(use.node, 0, weight)
        if way is None:
            return "a function picks its rows"
        if not all(is_op(node, "Identity", "Cast") for node in way):
            return f"its rows are picked behind a {way[0].op_type}"
    return None


def dtype_at(use: Use, weight: Weight) -> ir.DataType:
    """Return the type in which a Gather picks rows."""
    for node in way_to(use.node, 0, weight) or ():
        if is_op(node, "Cast"):
            return ir.DataType(node.attributes.get_int("to", 1) or 1)
    return weight.dtype


def store(model: ir.Model, weight: Weight, grid: Grid, *, every_time: bool) -> None:
    """Store a table once, and serve the Gathers and all other readers from it.

    Args:
        model: The model.
        weight: The table.
        grid: One scale, or one per row.
        every_time: Whether other readers get a DequantizeLinear and not a product that is folded.
    """
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    stored = builder.constant("quantized", integers(weight.tensor, grid, shape))
    factors = scales(grid, shape)
    scale = builder.constant("scale", ir.Tensor(factors))
    points = zero_points(grid, factors.shape)
    zero_point = None if points is None else builder.constant("zero_point", points)
    table = Table(model, stored, scale, zero_point)
    for use in pickers(weight):
        table.serve(use.node, use.scope, dtype_at(use, weight))
    if is_unused(weight.value):
        return
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    if every_time:
        value = table.as_dequantize_linear(builder, weight.dtype)
    else:
        value = table.as_product(builder, weight.dtype)
    take_over(weight, value)


class Table:
    """A table that is stored as integers.

    Args:
        model: The model.
        stored: The integers, (rows, columns), or (rows, blocks, columns of a block).
        scale: One number for each row, (rows, 1) or (rows, 1, 1), or one for all, ().
        zero_point: Likewise; None: 0.
        columns: How many columns blocks are joined to.
    """

    def __init__(
        self,
        model: ir.Model,
        stored: ir.Value,
        scale: ir.Value,
        zero_point: ir.Value | None,
        *,
        columns: int | None = None,
    ) -> None:
        self._model = model
        self._stored = stored
        self._scale = scale
        self._zero_point = zero_point
        self._columns = columns
        self._real = scale.dtype or ir.DataType.FLOAT

    def serve(self, node: ir.Node, scope: Scope, dtype: ir.DataType, rank: int = 0) -> None:
        """Let a Gather along axis 0 pick integers.

        Args:
            node: The Gather.
            scope: Where it stands.
            dtype: The type of its result.
            rank: That of what says which rows, for a table of blocks.
        """
        base = node.name or node.outputs[0].name or "rows"
        builder, picks = Builder(self._model, scope, node, base), node.inputs[1]

        def picked(value: ir.Value, suffix: str) -> ir.Value:
            if value is not self._stored and not value.shape:
                return value
            return builder.node("Gather", [value, picks], suffix, value.dtype or self._real)

        value = self._scaled(builder, picked, dtype)
        if self._columns is not None:
            target = np.array([0] * rank + [self._columns], np.int64)
            joined = builder.constant("shape", ir.Tensor(target))
            value = builder.node("Reshape", [value, joined], "joined", dtype)
        replace(node.outputs[0], value)
        remove(node)

    def as_product(self, builder: Builder, dtype: ir.DataType) -> ir.Value:
        """Write the whole table as a product that a session computes once."""
        return self._scaled(builder, lambda value, _: value, dtype)

    def as_dequantize_linear(self, builder: Builder, dtype: ir.DataType) -> ir.Value:
        """Write the whole table as a DequantizeLinear."""
        attributes = []
        values = [value for value in (self._scale, self._zero_point) if value is not None]
        if self._scale.shape:
            attributes = [ir.AttrInt64("axis", 0)]
            values = [builder.constant("vector", _flat(value)) for value in values]
        inputs = [self._stored, *values]
        value = builder.node("DequantizeLinear", inputs, "dequantized", self._real, attributes)
        return value if dtype == self._real else builder.cast(value, dtype, "narrow")

    def _scaled(
        self,
        builder: Builder,
        picked: Callable[[ir.Value, str], ir.Value],
        dtype: ir.DataType,
    ) -> ir.Value:
        value = builder.cast(picked(self._stored, "picked"), self._real, "float")
        if self._zero_point is not None:
            shift = builder.cast(picked(self._zero_point, "zero_point"), self._real, "zero")
            value = builder.node("Sub", [value, shift], "shifted", self._real)
        factors = picked(self._scale, "scale")
        value = builder.node("Mul", [value, factors], "dequantized", self._real)
        return value if dtype == self._real else builder.cast(value, dtype, "narrow")


def _flat(value: ir.Value) -> ir.TensorProtocol:
    tensor = constant(value)
    if tensor is None:
        raise ValueError(f"{value.name!r} is no constant")
    return ir.Tensor(tensor.numpy().reshape(-1), dtype=tensor.dtype)
