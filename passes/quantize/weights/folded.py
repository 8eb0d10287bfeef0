"""Weights as Mul(Cast(integers), scale), which ONNX Runtime computes when a session starts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.uses import remove_unread
from graphopt.rewrite.weights import Weight
from passes.quantize.weights.building import Builder, behind
from passes.quantize.weights.integers import integers, zero_points


def store(model: ir.Model, weight: Weight, grid: Grid) -> None:
    """Let all readers of a weight read what its integers stand for.

    A float16 or bfloat16 weight is scaled as float32 and cast then: ONNX Runtime computes constants
    in the types that its CPU kernels have.
    """
    base = weight.name
    builder = Builder(model, weight.scope, behind(weight.value), base)
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    stored = builder.constant("quantized", integers(weight.tensor, grid, shape))
    scale = scales(grid, shape)
    computed = ir.DataType.from_numpy(scale.dtype)
    value = dequantized(builder, stored, grid, shape)
    if weight.dtype != computed:
        value = builder.cast(value, weight.dtype, "narrow")
    take_over(weight, value)


def dequantized(builder: Builder, stored: ir.Value, grid: Grid, shape: tuple[int, ...]) -> ir.Value:
    """Write the real numbers that a constant of integers stands for, in the type of the scale."""
    factors = scales(grid, shape)
    real = ir.DataType.from_numpy(factors.dtype)
    value = builder.cast(stored, real, "float")
    points = zero_points(grid, factors.shape)
    if points is not None:
        shift = builder.cast(builder.constant("zero_point", points), real, "zero")
        value = builder.node("Sub", [value, repeated(builder, shift, grid, shape)], "shifted", real)
    scale = builder.constant("scale", ir.Tensor(factors))
    return builder.node("Mul", [value, repeated(builder, scale, grid, shape)], "dequantized", real)


def scales(grid: Grid, shape: tuple[int, ...]) -> Array:
    """Return the scales of a grid in a shape that broadcasts to a weight, but for blocks."""
    if grid.axis is None or grid.block_size:
        return grid.scale.reshape(()) if grid.axis is None else grid.scale
    return grid.scale.reshape(-1, *[1] * (len(shape) - 1 - grid.axis % len(shape)))


def repeated(builder: Builder, value: ir.Value, grid: Grid, shape: tuple[int, ...]) -> ir.Value:
    """Write one number for each element along the axis of blocks, from one for each block."""
    if not grid.block_size or grid.axis is None or grid.scale.shape[grid.axis] == 1:
        return value
    index = np.arange(shape[grid.axis], dtype=np.int32) // grid.block_size
    blocks = builder.constant("blocks", ir.Tensor(index))
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
    axis = [ir.AttrInt64("axis", grid.axis)]
    return builder.node("Gather", [value, blocks], "repeated", dtype, axis)


def take_over(weight: Weight, value: ir.Value) -> None:
    """Let all readers of a weight read another value, and drop the weight."""
    for user, index in list(weight.value.uses()):
        user.replace_input_with(index, value)
    remove_unread([weight.value])
