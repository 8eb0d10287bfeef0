"""The real numbers that stored integers stand for, as float tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, constant
from graphopt.rewrite.grid import Grid

_LAZY_BYTES = 4 << 20
"""Larger weights are computed anew whenever they are read, from where their integers are."""

Arrange = Callable[[Array], Array]


def grid_from(
    stored: ir.TensorProtocol,
    scale: ir.TensorProtocol,
    zero_point: ir.TensorProtocol | None,
    axis: int | None = None,
    block_size: int = 0,
) -> Grid:
    """Return the grid that scales and zero points of a model say.

    Args:
        stored: The integers.
        scale: One, or of shape (C,) along `axis`, or of blocks; axes of size 1 may be around it.
        zero_point: Of the scale's shape, or one; None: 0.
        axis: See `Grid`.
        block_size: See `Grid`.
    """
    shape: tuple[int, ...] = ()
    if scale.size > 1 and axis is not None:
        sizes = tuple(int(size) for size in stored.shape.numpy())
        axis %= len(sizes)
        blocks = -(-sizes[axis] // block_size) if block_size else 0
        shape = (*sizes[:axis], blocks, *sizes[axis + 1 :]) if block_size else (sizes[axis],)
    factors = scale.numpy().reshape(shape)
    points = None
    if zero_point is not None:
        plain = zero_point.numpy().astype(np.int32)
        points = np.broadcast_to(plain.reshape(shape if plain.size > 1 else ()), shape)
    if not shape:
        return Grid(stored.dtype, factors, points)
    return Grid(stored.dtype, factors, points, axis, block_size)


def real(
    stored: ir.TensorProtocol,
    grid: Grid,
    *,
    dtype: ir.DataType | None = None,
    shape: tuple[int, ...] | None = None,
    arrange: Arrange | None = None,
    unpack: Arrange | None = None,
) -> ir.TensorProtocol:
    """Return what integers stand for.

    Args:
        stored: The integers.
        grid: How they stand for real numbers.
        dtype: The type of the result; None: that of the scale.
        shape: The shape of the result; None: that of the integers.
        arrange: Turns real numbers into the result; None: they are.
        unpack: Turns what is stored into integers of the grid; None: it is.
    """
    sizes = tuple(int(size) for size in stored.shape.numpy()) if shape is None else shape
    kind = dtype or ir.DataType.from_numpy(grid.scale.dtype)
    compute = partial(_real, stored, grid, kind, arrange, unpack)
    if math.prod(sizes) * kind.itemsize <= _LAZY_BYTES:
        return compute()
    return ir.LazyTensor(compute, dtype=kind, shape=ir.Shape(sizes), cache=False)


def _real(
    stored: ir.TensorProtocol,
    grid: Grid,
    dtype: ir.DataType,
    arrange: Arrange | None,
    unpack: Arrange | None,
) -> ir.TensorProtocol:
    integers = stored.numpy() if unpack is None else unpack(stored.numpy())
    numbers = grid.dequantize(integers)
    if arrange is not None:
        numbers = arrange(numbers)
    return ir.Tensor(np.ascontiguousarray(numbers).astype(dtype.numpy(), copy=False), dtype=dtype)


def constants(*values: ir.Value | None) -> tuple[ir.TensorProtocol, ...] | None:
    """Return the tensors of values; None where one is computed."""
    tensors = [constant(value) for value in values]
    known = [tensor for tensor in tensors if tensor is not None]
    return tuple(known) if len(known) == len(tensors) else None
