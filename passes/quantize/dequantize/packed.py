"""Weights that contrib operators of ONNX Runtime hold in layouts of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import Array, constant
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.selection import address
from passes.quantize.dequantize.reals import constants, grid_from, real
from passes.quantize.dequantize.restored import base_name
from passes.quantize.dequantize.sites import Site, Wish, take_over

DOMAIN = "com.microsoft"

_Restorer = Callable[[Site, ir.Node], "Callable[[], None] | str"]
"""Says how a node becomes one of ONNX's own, or why it cannot."""


def rewrites(model: ir.Model, wish: Wish) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per contrib operator with quantized weights."""
    for scope in list(scopes(model)):
        for node in list(scope.graph):
            if node.domain != DOMAIN or not wish.chooses(scope, [node]):
                continue
            restorer = _RESTORERS.get(node.op_type)
            if restorer is None:
                if node.op_type in UNKNOWN:
                    yield Declined(address(node, scope), f"{node.op_type} is not known here")
                continue
            found = restorer(Site(model, scope), node)
            if isinstance(found, str):
                yield Declined(address(node, scope), found)
            else:
                yield Rewrite(address(node, scope), f"{node.op_type} with floats", found)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _matmul_nbits(site: Site, node: ir.Node) -> Callable[[], None] | str:
    """Unpack MatMulNBits: see `passes.quantize.weights.packed` for its layout."""
    number = {name: node.attributes.get_int(name, 0) or 0 for name in ("K", "N", "block_size")}
    bits = node.attributes.get_int("bits", 4) or 4
    if bits not in (4, 8):
        return f"it packs {bits} bits"
    if _input(node, 4) is not None:
        return "it reorders what it sums over (g_idx)"
    held = constants(node.inputs[1], node.inputs[2])
    points = constant(_input(node, 3))
    if held is None or (_input(node, 3) is not None and points is None):
        return "its weight, scale or zero point is computed"
    packed, scale = held
    if points is not None and points.dtype != ir.DataType.UINT8:
        return f"its zero points are {points.dtype.name}"
    columns, summed = number["N"], number["K"]
    blocks = -(-summed // number["block_size"])
    factors = scale.numpy().reshape(columns, blocks)
    grid = Grid(
        ir.DataType.UINT8, factors, _points(points, columns, blocks, bits), 1, number["block_size"]
    )

    def unpack(stored: Array) -> Array:
        return _unpacked(stored.reshape(columns, -1), bits)[:, :summed]

    def apply() -> None:
        weight = real(packed, grid, shape=(summed, columns), arrange=np.transpose, unpack=unpack)
        base = base_name(packed.name)
        value = site.constant(node, base, weight)
        product = site.node(node, "MatMul", [node.inputs[0], value]).outputs[0]
        bias = _input(node, 5)
        if bias is not None:
            product = site.node(node, "Add", [product, bias]).outputs[0]
        take_over(node, [product])

    return apply


def _points(points: ir.TensorProtocol | None, columns: int, blocks: int, bits: int) -> Array:
    if points is None:
        return np.full((columns, blocks), 1 << (bits - 1), np.int32)
    return _unpacked(points.numpy().reshape(columns, -1), bits)[:, :blocks].astype(np.int32)


def _unpacked(stored: Array, bits: int) -> Array:
    """Unpack the last axis of an array of uint8: of two numbers in a byte, the low half first."""
    if bits == 8:
        return stored
    pairs = np.stack([stored & 15, stored >> 4], axis=-1)
    return pairs.reshape(*stored.shape[:-1], -1)


def _dynamic_lstm(site: Site, node: ir.Node) -> Callable[[], None] | str:
    """Turn DynamicQuantizeLSTM back: W (directions, input, 4 * hidden), and R alike."""
    held = constants(*(node.inputs[index] for index in (1, 2, 8, 9, 10, 11)))
    if held is None:
        return "its weights, scales or zero points are computed"
    pairs = ((held[0], held[2], held[3]), (held[1], held[4], held[5]))

    def apply() -> None:
        values = []
        for stored, scale, point in pairs:
            sizes = tuple(int(size) for size in stored.shape.numpy())
            turned = (sizes[0], sizes[2], sizes[1])
            grid = _per_direction(stored, scale, point)
            weight = real(stored, grid, shape=turned, arrange=_swap)
            base = base_name(stored.name)
            values.append(site.constant(node, base, weight))
        inputs = [node.inputs[0], *values, *node.inputs[3:8]]
        while inputs[-1] is None:
            inputs.pop()
        kept = list(node.attributes.values())
        lstm = site.node(node, "LSTM", inputs, kept, outputs=len(node.outputs))
        for output, old in zip(lstm.outputs, node.outputs, strict=True):
            if not old.name:
                output.name = ""
        take_over(node, lstm.outputs)

    return apply


def _per_direction(
    stored: ir.TensorProtocol, scale: ir.TensorProtocol, point: ir.TensorProtocol
) -> Grid:
    """Read scales of shape (directions,) or (directions, 4 * hidden)."""
    directions, summed, columns = (int(size) for size in stored.shape.numpy())
    shape = (directions, 1, columns)

    def laid_out(numbers: Array) -> Array:
        return np.broadcast_to(numbers.reshape(directions, 1, -1), shape)

    points = laid_out(point.numpy().astype(np.int32))
    return Grid(stored.dtype, laid_out(scale.numpy()), points, 1, summed)


def _swap(numbers: Array) -> Array:
    return numbers.swapaxes(1, 2)


def _dynamic_matmul(site: Site, node: ir.Node) -> Callable[[], None] | str:
    """Turn DynamicQuantizeMatMul back: A, B, scale, zero point, bias."""
    return _product(site, node, node.inputs[0], 1, (2, 3), 4)


def _product(
    site: Site,
    node: ir.Node,
    data: ir.Value | None,
    weight: int,
    parameters: tuple[int, int],
    bias: int,
) -> Callable[[], None] | str:
    stored, scale = constant(node.inputs[weight]), constant(node.inputs[parameters[0]])
    given = _input(node, parameters[1])
    points = constant(given)
    if stored is None or scale is None or (given is not None and points is None):
        return "its weight, scale or zero point is computed"
    grid = grid_from(stored, scale, points, len(stored.shape) - 1)

    def apply() -> None:
        base = base_name(stored.name)
        value = site.constant(node, base, real(stored, grid))
        product = site.node(node, "MatMul", [data, value]).outputs[0]
        added = _input(node, bias)
        if added is not None:
            product = site.node(node, "Add", [product, added]).outputs[0]
        take_over(node, [product])

    return apply


_RESTORERS: dict[str, _Restorer] = {
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulNBits": _matmul_nbits,
}

UNKNOWN = frozenset(
    {
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "QAttention",
        "QEmbedLayerNormalization",
        "QMoE",
        "QOrderedAttention",
        "QOrderedMatMul",
    }
)
"""Operators with quantized weights that stay as they are, and are said to."""
