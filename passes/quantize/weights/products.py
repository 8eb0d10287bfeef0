"""Weights behind a DequantizeLinear of their own for each matrix product that reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.uses import remove_unread
from graphopt.rewrite.weights import Weight
from passes.quantize.weights.building import Builder, behind
from passes.quantize.weights.folded import take_over
from passes.quantize.weights.integers import integers, zero_points
from passes.quantize.weights.readers import Products


def store(model: ir.Model, weight: Weight, grid: Grid, products: Products) -> None:
    """Let matrix products read (summed, columns) integers behind a DequantizeLinear each.

    ONNX Runtime fuses a product with a DequantizeLinear of integers that lie in this order, where
    nothing else reads either; a Gemm with transB is turned around for that.
    """
    turned = products.transposed
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    shape = shape[::-1] if turned else shape
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    arrange = np.transpose if turned else None
    stored = builder.constant("quantized", integers(weight.tensor, grid, shape, arrange=arrange))
    inputs, attributes = parameters(builder, grid, products.dtype, turned=turned)
    for use in products.uses:
        reader = Builder(model, use.scope, use.node, weight.name)
        value = reader.node(
            "DequantizeLinear", [stored, *inputs], "dequantized", products.dtype, attributes
        )
        before = use.node.inputs[1]
        use.node.replace_input_with(1, value)
        use.node.attributes.pop("transB", None)
        remove_unread([before])


def parameters(
    builder: Builder, grid: Grid, dtype: ir.DataType, *, turned: bool
) -> tuple[Sequence[ir.Value], Sequence[ir.Attr]]:
    """Write the further inputs and the attributes of a DequantizeLinear.

    Args:
        builder: Where constants go.
        grid: The grid of a tensor.
        dtype: The type of the scale, and so of the result.
        turned: Whether the two axes of the tensor change places.
    """

    def laid_out(numbers: Array) -> Array:
        return np.ascontiguousarray(numbers.T) if turned and numbers.ndim > 1 else numbers

    scale = laid_out(grid.scale.astype(dtype.numpy()))
    inputs = [builder.constant("scale", ir.Tensor(scale, dtype=dtype))]
    points = zero_points(grid, grid.scale.shape)
    if points is not None:
        inputs.append(
            builder.constant("zero_point", ir.Tensor(laid_out(points.numpy()), dtype=points.dtype))
        )
    if grid.axis is None:
        return inputs, ()
    axis = 1 - grid.axis if turned else grid.axis
    attributes = [ir.AttrInt64("axis", axis)]
    if grid.block_size:
        attributes.append(ir.AttrInt64("block_size", grid.block_size))
    return inputs, attributes


def store_in_place(model: ir.Model, weight: Weight, grid: Grid) -> None:
    """Let all readers of a weight read one DequantizeLinear, which runs every time."""
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    stored = builder.constant("quantized", integers(weight.tensor, grid, shape))
    inputs, attributes = parameters(builder, grid, weight.dtype, turned=False)
    value = builder.node(
        "DequantizeLinear", [stored, *inputs], "dequantized", weight.dtype, attributes
    )
    take_over(weight, value)
