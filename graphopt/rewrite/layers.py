"""What the operators of layers do with a weight: its role, its channels, what it is summed over."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS

_MICROSOFT = "com.microsoft"


class Role(enum.Enum):
    """What a constant is to the layer that reads it."""

    WEIGHT = "weight"
    """Multiplied with activations and summed over."""

    BIAS = "bias"
    """Added to what a layer computes; peephole weights of an LSTM count as such."""

    NORMALIZATION = "normalization"
    """The scale or the shift of a normalization; running means and variances have no role."""

    EMBEDDING = "embedding"
    """A table whose rows a Gather picks."""


@dataclass(frozen=True)
class Axes:
    """How one layer reads the axes of a weight.

    Args:
        output: The axis of output channels; None where there is none (a vector).
        reduction: The axes that the layer sums over.
        input: The one of them that counts input channels; None where there is none.
        groups: Into how many equal runs a layer cuts `input` and sums over each apart
            (ConvTranspose with groups; 1 otherwise).
    """

    output: int | None = None
    reduction: tuple[int, ...] = ()
    input: int | None = None
    groups: int = 1


@dataclass(frozen=True)
class Activation:
    """What a weight is multiplied with.

    Args:
        input: Which input of the node it is.
        axis: Its axis of channels, negative where it counts from the end.
        groups: Channels are cut into so many equal runs, one for each run of output channels
            (Conv with groups; 1 otherwise).
    """

    input: int
    axis: int
    groups: int = 1


@dataclass(frozen=True)
class Slot:
    """What one input of a layer is.

    Args:
        role: Its role.
        axes: Its axes, for a weight.
        activation: What it is multiplied with, where that is an input of the node.
        scale: The input that holds its scale, where the operator takes it quantized.
        zero_point: The input that holds its zero point, likewise.
        opaque: Why the contents cannot be read as the numbers that the layer computes with.
    """

    role: Role
    axes: Axes = Axes()
    activation: Activation | None = None
    scale: int | None = None
    zero_point: int | None = None
    opaque: str | None = None


_Reader = Callable[[ir.Node, int], Slot | None]
"""Says what the input of a node is, given the rank of the weight as the node sees it."""


def slot(node: ir.Node, index: int, rank: int) -> Slot | None:
    """Say what input `index` of a node is, where a constant of that rank would be a parameter.

    Returns:
        None for operators that are no layers, and for inputs of layers that are no parameters.
    """
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    reader = _SLOTS.get((domain, node.op_type), {}).get(index)
    return None if reader is None else reader(node, rank)


def _conv_weight(*, scale: int | None = None, zero_point: int | None = None) -> _Reader:
    def read(node: ir.Node, rank: int) -> Slot | None:
        if rank < 3:
            return None
        groups = max(1, node.attributes.get_int("group", 1) or 1)
        axes = Axes(output=0, reduction=tuple(range(1, rank)), input=1)
        activation = Activation(0, 1, groups)
        return Slot(Role.WEIGHT, axes, activation, scale=scale, zero_point=zero_point)

    return read


def _conv_transpose_weight(node: ir.Node, rank: int) -> Slot | None:
    if rank < 3:
        return None
    groups = max(1, node.attributes.get_int("group", 1) or 1)
    axes = Axes(output=1, reduction=(0, *range(2, rank)), input=0, groups=groups)
    return Slot(Role.WEIGHT, axes, Activation(0, 1))


def _gemm_operand(index: int) -> _Reader:
    def read(node: ir.Node, rank: int) -> Slot | None:
        if rank != 2:
            return None
        # As computed: A is (M, K), B is (K, N); a transposed operand is stored the other way.
        stored = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
        reduced = [int(not stored[0]), int(stored[1])]
        axes = Axes(output=1 - reduced[index], reduction=(reduced[index],), input=reduced[index])
        return Slot(Role.WEIGHT, axes, Activation(1 - index, reduced[1 - index]))

    return read


def _matmul_operand(
    *, left: bool, other: int, scale: int | None = None, zero_point: int | None = None
) -> _Reader:
    def read(node: ir.Node, rank: int) -> Slot | None:
        if rank < 1 or any(
            node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")
        ):
            return None
        mine, others = ("transA", "transB") if left else ("transB", "transA")
        last = left != bool(node.attributes.get_int(mine, 0))
        activation_last = left == bool(node.attributes.get_int(others, 0))
        activation = Activation(other, -1 if activation_last else -2)
        axes = Axes(None, (0,), 0)
        if rank > 1:
            reduced, output = (rank - 1, rank - 2) if last else (rank - 2, rank - 1)
            axes = Axes(output, (reduced,), reduced)
        return Slot(Role.WEIGHT, axes, activation, scale=scale, zero_point=zero_point)

    return read


def _recurrent_weight(activation: Activation | None) -> _Reader:
    def read(_: ir.Node, rank: int) -> Slot | None:
        if rank != 3:
            return None
        # (directions, gates * hidden, input or hidden)
        return Slot(Role.WEIGHT, Axes(output=1, reduction=(2,), input=2), activation)

    return read


def _projection(_: ir.Node, rank: int) -> Slot | None:
    """Read the weight of com.microsoft's Attention: (input, 3 * hidden)."""
    if rank != 2:
        return None
    return Slot(Role.WEIGHT, Axes(output=1, reduction=(0,), input=0), Activation(0, -1))


def _plain(role: Role) -> _Reader:
    return lambda _node, _rank: Slot(role)


def _opaque(why: str) -> _Reader:
    return lambda _node, _rank: Slot(Role.WEIGHT, opaque=why)


def _embedding(node: ir.Node, rank: int) -> Slot | None:
    # A Gather along another axis, or from a vector, picks numbers and no rows of a table.
    if rank != 2 or node.attributes.get_int("axis", 0) != 0:
        return None
    return Slot(Role.EMBEDDING, Axes(output=0, reduction=(1,), input=1))


_BIAS = _plain(Role.BIAS)
_NORM = _plain(Role.NORMALIZATION)
_CONV: Mapping[int, _Reader] = {1: _conv_weight(), 2: _BIAS}
_GEMM: Mapping[int, _Reader] = {0: _gemm_operand(0), 1: _gemm_operand(1), 2: _BIAS}
_MATMUL: Mapping[int, _Reader] = {
    0: _matmul_operand(left=True, other=1),
    1: _matmul_operand(left=False, other=0),
}
_RECURRENT: Mapping[int, _Reader] = {
    1: _recurrent_weight(Activation(0, -1)),
    2: _recurrent_weight(None),
    3: _BIAS,
    7: _BIAS,
}
_PACKED = _opaque("packed for a contrib operator")
_UNSCALED = _opaque("integers whose scale is applied behind the layer")

_SLOTS: Mapping[tuple[str, str], Mapping[int, _Reader]] = {
    ("", "Conv"): _CONV,
    (_MICROSOFT, "FusedConv"): _CONV,
    ("", "ConvTranspose"): {1: _conv_transpose_weight, 2: _BIAS},
    ("", "DeformConv"): {1: _conv_weight(), 3: _BIAS},
    ("", "ConvInteger"): {1: _UNSCALED},
    ("", "QLinearConv"): {3: _conv_weight(scale=4, zero_point=5), 8: _BIAS},
    ("", "Gemm"): _GEMM,
    (_MICROSOFT, "FusedGemm"): _GEMM,
    ("", "MatMul"): _MATMUL,
    (_MICROSOFT, "FusedMatMul"): _MATMUL,
    ("", "MatMulInteger"): {0: _UNSCALED, 1: _UNSCALED},
    ("", "QLinearMatMul"): {
        0: _matmul_operand(left=True, other=3, scale=1, zero_point=2),
        3: _matmul_operand(left=False, other=0, scale=4, zero_point=5),
    },
    ("", "Einsum"): {n: _opaque("an operand of an Einsum") for n in range(8)},
    ("", "LSTM"): _RECURRENT,
    ("", "GRU"): {n: reader for n, reader in _RECURRENT.items() if n != 7},
    ("", "RNN"): {n: reader for n, reader in _RECURRENT.items() if n != 7},
    ("", "Gather"): {0: _embedding},
    ("", "BatchNormalization"): {1: _NORM, 2: _NORM},
    ("", "InstanceNormalization"): {1: _NORM, 2: _NORM},
    ("", "GroupNormalization"): {1: _NORM, 2: _NORM},
    ("", "LayerNormalization"): {1: _NORM, 2: _NORM},
    ("", "RMSNormalization"): {1: _NORM},
    ("", "SimplifiedLayerNormalization"): {1: _NORM},
    (_MICROSOFT, "SkipLayerNormalization"): {2: _NORM, 3: _NORM, 4: _BIAS},
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): {2: _NORM, 3: _BIAS},
    (_MICROSOFT, "Attention"): {1: _projection, 2: _BIAS},
    (_MICROSOFT, "MatMulNBits"): {1: _PACKED},
    (_MICROSOFT, "MatMulBnb4"): {1: _PACKED},
    (_MICROSOFT, "DynamicQuantizeMatMul"): {1: _UNSCALED},
    (_MICROSOFT, "MatMulIntegerToFloat"): {0: _UNSCALED, 1: _UNSCALED},
    (_MICROSOFT, "QGemm"): {0: _UNSCALED, 3: _UNSCALED},
    (_MICROSOFT, "QAttention"): {1: _UNSCALED},
    (_MICROSOFT, "DynamicQuantizeLSTM"): {1: _UNSCALED, 2: _UNSCALED},
}

PRODUCERS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedConv", "FusedGemm"}
)
"""Layers behind which a constant that an Add adds is a bias."""
