"""Weights as com.microsoft's MatMulNBits wants them.

Source: ONNX Runtime's documentation of the operator (docs/ContribOperators.md) for MatMulNBits:
y = A B^T with B of (N, K), cut along K into blocks of `block_size` that share a scale. Inputs: A; B
as uint8 (N, blocks, block_size * bits / 8), of two 4-bit numbers in a byte the first in the low
half; scales (N * blocks); zero points uint8 (N * ceil(blocks * bits / 8)), packed alike, left out
where all are 2^(bits-1). Signed numbers are stored with 2^(bits-1) added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, is_op
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.uses import remove, remove_unread, replace
from graphopt.rewrite.weights import Use, Weight
from passes.quantize.weights.building import Builder, behind
from passes.quantize.weights.integers import integers
from passes.quantize.weights.readers import Products

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Wish:
    """What is asked of MatMulNBits.

    Args:
        block_size: Into what blocks a matrix is cut whose grid has none.
        accuracy_level: How activations are rounded: 0 and 1 not at all, 2 to float16, 3 to
            bfloat16, 4 to int8 in blocks.
    """

    block_size: int
    accuracy_level: int


@dataclass(frozen=True)
class Packing:
    """How a matrix is cut and packed.

    Args:
        columns: N.
        summed: K.
        block_size: A power of two from 16 on.
        bits: 4 or 8.
        offset: What is added to stored numbers: 2^(bits-1) for signed ones, else 0.
    """

    columns: int
    summed: int
    block_size: int
    bits: int
    offset: int

    @property
    def blocks(self) -> int:
        """How many blocks a column has."""
        return -(-self.summed // self.block_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of B."""
        return self.columns, self.blocks, self.block_size * self.bits // 8

    def pack(self, stored: Array, *, transposed: bool) -> Array:
        """Return B from integers of (N, K) where `transposed`, else of (K, N)."""
        rows = stored if transposed else stored.T
        whole = np.zeros((self.columns, self.blocks * self.block_size), np.uint8)
        whole[:, : self.summed] = rows.astype(np.int16) + self.offset
        return _packed(whole, self.bits).reshape(self.shape)

    def per_block(self, numbers: Array, grid: Grid, *, transposed: bool) -> Array:
        """Return one number for each column and block, (N, blocks), from those of a grid."""
        if grid.axis is None:
            return np.broadcast_to(numbers.reshape(1, 1), (self.columns, self.blocks))
        if not grid.block_size:
            return np.broadcast_to(numbers.reshape(-1, 1), (self.columns, self.blocks))
        return numbers if transposed else numbers.T


def _packed(numbers: Array, bits: int) -> Array:
    """Pack the last axis of an array of uint8."""
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    return np.asarray(numbers[..., ::2] | (numbers[..., 1::2] << 4), np.uint8)


def store(model: ir.Model, weight: Weight, grid: Grid, products: Products, wish: Wish) -> ir.Value:
    """Let MatMulNBits take the place of the matrix products that read a weight.

    Args:
        model: The model.
        weight: A matrix.
        grid: Its grid.
        products: Its readers.
        wish: What is asked for.

    Returns:
        The packed integers.
    """
    packing = _packing(weight, grid, products, wish.block_size)
    transposed = products.transposed
    builder = Builder(model, weight.scope, behind(weight.value), weight.name)
    stored = builder.constant(
        "packed",
        integers(
            weight.tensor,
            grid,
            packing.shape,
            dtype=ir.DataType.UINT8,
            arrange=partial(packing.pack, transposed=transposed),
        ),
    )
    scale = packing.per_block(grid.scale, grid, transposed=transposed)
    scale = np.ascontiguousarray(scale, products.dtype.numpy()).reshape(-1)
    inputs = [stored, builder.constant("scale", ir.Tensor(scale, dtype=products.dtype))]
    points = _zero_points(packing, grid, transposed=transposed)
    if points is not None:
        inputs.append(builder.constant("zero_point", ir.Tensor(points)))
    for use in products.uses:
        _serve(model, use, inputs, packing, products.dtype, wish.accuracy_level)
    owner = model if weight.scope.function is None else weight.scope.function
    model.opset_imports.setdefault(DOMAIN, 1)
    owner.opset_imports.setdefault(DOMAIN, 1)
    return stored


def _packing(weight: Weight, grid: Grid, products: Products, block_size: int) -> Packing:
    sizes = tuple(int(size) for size in weight.tensor.shape.numpy())
    columns, summed = sizes if products.transposed else sizes[::-1]
    bits = int(grid.dtype.bitwidth)
    offset = 1 << (bits - 1) if grid.dtype.is_signed() else 0
    return Packing(columns, summed, grid.block_size or block_size, bits, offset)


def _zero_points(packing: Packing, grid: Grid, *, transposed: bool) -> Array | None:
    middle = 1 << (packing.bits - 1)
    given = np.zeros(grid.scale.shape, np.int32) if grid.zero_point is None else grid.zero_point
    points = given + packing.offset
    if (points == middle).all():
        return None
    per_block = packing.per_block(points, grid, transposed=transposed).astype(np.uint8)
    return _packed(np.ascontiguousarray(per_block), packing.bits).reshape(-1)


def _serve(
    model: ir.Model,
    use: Use,
    inputs: list[ir.Value],
    packing: Packing,
    dtype: ir.DataType,
    accuracy_level: int,
) -> None:
    node = use.node
    builder = Builder(model, use.scope, node, node.name or node.outputs[0].name or "product")
    attributes = [
        ir.AttrInt64("K", packing.summed),
        ir.AttrInt64("N", packing.columns),
        ir.AttrInt64("bits", packing.bits),
        ir.AttrInt64("block_size", packing.block_size),
        ir.AttrInt64("accuracy_level", accuracy_level),
    ]
    value = builder.node(
        "MatMulNBits", [node.inputs[0], *inputs], "nbits", dtype, attributes, domain=DOMAIN
    )
    if is_op(node, "Gemm") and len(node.inputs) > 2 and node.inputs[2] is not None:
        value = builder.node("Add", [value, node.inputs[2]], "biased", dtype)
    read = list(node.inputs)
    replace(node.outputs[0], value)
    remove(node)
    remove_unread(read)
