"""The constants of a quantized graph: integers, scales, zero points, each stored once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import add_initializer, array
from graphopt.rewrite.grid import Array, Grid
from graphopt.rewrite.names import Names


@dataclass
class Quantized:
    """A value as integers.

    Args:
        integers: What QuantizeLinear, or an operator on integers, gives.
        real: What DequantizeLinear gives back.
        scale: The input of both.
        zero_point: The input of both, likewise; None: 0.
    """

    integers: ir.Value
    real: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None


class Constants:
    """Stores what QuantizeLinear and DequantizeLinear read.

    Args:
        names: Those of the model.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._parameters: dict[tuple[int, ir.Graph], tuple[ir.Value, ir.Value | None]] = {}
        self._integers: dict[tuple[ir.Value, int], ir.Value] = {}
        self._zero_points: dict[tuple[ir.DataType, object, bytes, ir.Graph], ir.Value] = {}
        # Keys hold the identity of grids: no later grid may come to lie where one has lain.
        self._kept_alive: dict[int, Grid] = {}

    def key(self, grid: Grid) -> int:
        """Return what tells a grid from others."""
        self._kept_alive[id(grid)] = grid
        return id(grid)

    def integers(self, value: ir.Value, grid: Grid) -> ir.Value:
        """Return the integers that were stored for a constant."""
        return self._integers[value, self.key(grid)]

    def dequantize(
        self, integers: ir.Value, scale: ir.Value, zero_point: ir.Value | None, name: str | None
    ) -> ir.Node:
        """Return a DequantizeLinear, in no graph yet."""
        given = [integers, scale] if zero_point is None else [integers, scale, zero_point]
        node = ir.Node("", "DequantizeLinear", given, name=name)
        node.outputs[0].name = name
        return node

    def stored(self, value: ir.Value, grid: Grid, graph: ir.Graph) -> ir.Node:
        """Return a DequantizeLinear, in no graph yet, that gives a constant back from integers."""
        numbers = array(value)
        assert numbers is not None
        name = value.name or "constant"
        integers = self._integers.get((value, self.key(grid)))
        if integers is None:
            home = value.graph if value.is_initializer() and value.graph is not None else graph
            stored = _tensor(grid.quantize(numbers), grid.dtype)
            integers = add_initializer(home, self._names.fresh(f"{name}_quantized"), stored)
            self._integers[value, self.key(grid)] = integers
        scale, zero_point = self.parameters(grid, graph, name)
        node = self.dequantize(integers, scale, zero_point, self._names.fresh(f"{name}_dq"))
        if grid.axis is not None:
            node.attributes["axis"] = ir.AttrInt64("axis", grid.axis)
        if grid.block_size:
            node.attributes["block_size"] = ir.AttrInt64("block_size", grid.block_size)
        return node

    def parameters(
        self, grid: Grid, graph: ir.Graph, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        """Return the scale and the zero point of a grid, as constants of a graph."""
        key = (self.key(grid), graph)
        if key not in self._parameters:
            scale = add_initializer(
                graph, self._names.fresh(f"{name}_scale"), ir.Tensor(np.asarray(grid.scale))
            )
            zero = None
            if grid.dtype != ir.DataType.INT32:
                points = np.zeros(grid.scale.shape, np.int32)
                points = points if grid.zero_point is None else grid.zero_point
                zero = self._zero_point(points, grid.dtype, graph)
            self._parameters[key] = (scale, zero)
        return self._parameters[key]

    def _zero_point(self, points: Array, dtype: ir.DataType, graph: ir.Graph) -> ir.Value:
        """Return a constant that all grids with the same zero points share."""
        key = (dtype, points.shape, points.tobytes(), graph)
        if key not in self._zero_points:
            kind = "x".join(map(str, points.shape)) or str(int(points))
            name = self._names.fresh(f"zero_point_{dtype.name.lower()}_{kind}")
            tensor = _tensor(points.astype(dtype.numpy()), dtype)
            self._zero_points[key] = add_initializer(graph, name, tensor)
        return self._zero_points[key]


def _tensor(stored: Array, dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(np.ascontiguousarray(stored).reshape(stored.shape), dtype=dtype)
