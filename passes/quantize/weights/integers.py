"""The integers of a weight, computed when they are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.grid import Grid

_LAZY_BYTES = 4 << 20
"""Larger weights are quantized anew whenever they are read, from where they are stored."""

Arrange = Callable[[Array], Array]
"""Lays stored integers out as an operator wants them."""


def integers(
    source: ir.TensorProtocol,
    grid: Grid,
    shape: tuple[int, ...],
    *,
    dtype: ir.DataType | None = None,
    arrange: Arrange | None = None,
) -> ir.TensorProtocol:
    """Return what stands for a weight on its grid.

    Args:
        source: The weight.
        grid: Its grid.
        shape: The shape of the result.
        dtype: Its type; None: that of the grid.
        arrange: Turns the integers, in the shape of the weight, into the result; None: they are.
    """
    kind = dtype or grid.dtype
    compute = partial(_integers, source, grid, kind, arrange)
    if source.nbytes <= _LAZY_BYTES:
        return compute()
    return ir.LazyTensor(compute, dtype=kind, shape=ir.Shape(shape), cache=False)


def _integers(
    source: ir.TensorProtocol, grid: Grid, dtype: ir.DataType, arrange: Arrange | None
) -> ir.TensorProtocol:
    stored = grid.quantize(source.numpy())
    if arrange is not None:
        stored = np.ascontiguousarray(arrange(stored))
    return ir.Tensor(stored, dtype=dtype)


def zero_points(grid: Grid, shape: tuple[int, ...]) -> ir.TensorProtocol | None:
    """Return the zero points of a grid in its own type; None where all are 0."""
    if grid.zero_point is None:
        return None
    points = grid.zero_point.reshape(shape).astype(np.int32).astype(grid.dtype.numpy())
    return ir.Tensor(points, dtype=grid.dtype)
