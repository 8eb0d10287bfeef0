"""Operators that are linear in their data, and how a scale or a shift enters their weights.

`y = f(x; W) + b`, with one `b` per output channel: Conv, ConvTranspose, Gemm, MatMul (with the Add
behind it, if any), and the last step of a normalization, `y = W * n(x) + b`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import is_op
from graphopt.rewrite.uses import only_user
from passes.cleanup.affine import Lane, Wide, affine
from passes.cleanup.sites import Site, int_setting, ints_setting


@dataclass(frozen=True)
class Linear:
    """A linear node with its weight.

    Args:
        node: The node.
        weight: Shape of the weight, all sizes known.
        out: The channels of the output.
        into: The channels of the input; None where nothing can be folded from before.
        tail: The node whose output is `y`: `node`, or the Add that is its bias.
        bias: The input that the bias is, or can be put at; None where there is no place for one.
        weight_index: Which input the weight is.
        bias_factor: What the node multiplies its bias with.
    """

    node: ir.Node
    weight: tuple[int, ...]
    out: Lane
    into: Lane | None
    tail: ir.Node
    bias: tuple[ir.Node, int] | None
    weight_index: int = 1
    bias_factor: float = 1.0

    @property
    def data_index(self) -> int:
        """Which input the data is."""
        return 1 if self.weight_index == 0 else 0

    def out_factor(self, scale: Wide) -> Wide:
        """Spread one factor per output channel over the weight, as it broadcasts."""
        raise NotImplementedError

    def in_factor(self, scale: Wide) -> Wide:
        """Spread one factor per input channel over the weight, as it broadcasts."""
        raise NotImplementedError

    def passed(self, shift: Wide, weight: Wide) -> Wide | None:
        """Return what a shift of the input adds to each output channel, if it does so evenly."""
        del shift, weight
        return None


class _Conv(Linear):
    """Weight [out, in / groups, kernel...]."""

    def out_factor(self, scale: Wide) -> Wide:
        return scale.reshape(-1, *[1] * (len(self.weight) - 1))

    def in_factor(self, scale: Wide) -> Wide:
        return _by_group(scale, self.weight)

    def passed(self, shift: Wide, weight: Wide) -> Wide | None:
        if _is_padded(self.node):
            # The padding is 0 behind the shift, and would have to be it in front.
            return None
        factor = np.broadcast_to(self.in_factor(shift), weight.shape)
        return np.asarray((weight * factor).reshape(self.weight[0], -1).sum(axis=1))


class _ConvTranspose(Linear):
    """Weight [in, out / groups, kernel...]."""

    def out_factor(self, scale: Wide) -> Wide:
        return _by_group(scale, self.weight)

    def in_factor(self, scale: Wide) -> Wide:
        return scale.reshape(-1, *[1] * (len(self.weight) - 1))


class _Gemm(Linear):
    """`alpha * A B + beta * C`; weight B [in, out], or [out, in] with transB."""

    @property
    def _is_transposed(self) -> bool:
        return int_setting(self.node, "transB", 0) != 0

    def out_factor(self, scale: Wide) -> Wide:
        return scale[:, None] if self._is_transposed else scale[None, :]

    def in_factor(self, scale: Wide) -> Wide:
        return scale[None, :] if self._is_transposed else scale[:, None]

    def passed(self, shift: Wide, weight: Wide) -> Wide | None:
        product = weight @ shift if self._is_transposed else shift @ weight
        return np.asarray(product * (_float_setting(self.node, "alpha") or 0.0))


class _MatMul(Linear):
    """Weight [..., in, out] on the right."""

    def out_factor(self, scale: Wide) -> Wide:
        return scale

    def in_factor(self, scale: Wide) -> Wide:
        return scale[:, None]

    def passed(self, shift: Wide, weight: Wide) -> Wide | None:
        return np.asarray(shift @ weight) if weight.ndim == 2 else None


class _LeftMatMul(Linear):
    """Weight [..., out, in] on the left: the channels are rows."""

    def out_factor(self, scale: Wide) -> Wide:
        return scale[:, None]

    def in_factor(self, scale: Wide) -> Wide:
        return scale


class _Normalization(Linear):
    """Weight [channels]: the gain behind the normalization."""

    def out_factor(self, scale: Wide) -> Wide:
        return scale


def linear(node: ir.Node, site: Site) -> Linear | None:
    """Read a linear node; None for other operators, and where shapes or settings are unknown."""
    builder = _BUILDERS.get(node.op_type)
    if builder is None or not is_op(node, node.op_type) or len(node.outputs) == 0:
        return None
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return builder(node, site)


def _conv(node: ir.Node, site: Site) -> Linear | None:
    weight, groups = site.shapes.static_shape(node.inputs[1]), int_setting(node, "group", 1)
    if weight is None or len(weight) < 3 or not groups or 0 in weight or weight[0] % groups:
        return None
    rank = len(weight)
    transposed = node.op_type == "ConvTranspose"
    first, second = Lane(1, weight[0], rank, rank), Lane(1, weight[1] * groups, rank, rank)
    if transposed:
        return _ConvTranspose(node, weight, second, first, node, (node, 2))
    return _Conv(node, weight, first, second, node, (node, 2))


def _gemm(node: ir.Node, site: Site) -> Linear | None:
    weight = site.shapes.static_shape(node.inputs[1])
    settings = [int_setting(node, name, 0) for name in ("transA", "transB")]
    factors = [_float_setting(node, name) for name in ("alpha", "beta")]
    if site.opset < 7 or weight is None or len(weight) != 2 or None in settings or None in factors:
        return None
    inner, outer = weight[::-1] if settings[1] else weight
    into = None if settings[0] else Lane(-1, inner, 2, 2)
    return _Gemm(
        node, weight, Lane(-1, outer, 2, 2), into, node, (node, 2), bias_factor=factors[1] or 0.0
    )


def _matmul(node: ir.Node, site: Site) -> Linear | None:
    for index in (1, 0):
        value, other = node.inputs[index], node.inputs[1 - index]
        weight = site.shapes.static_shape(value)
        is_weight = value is not None and not _varies(value)
        if is_weight and weight is not None and len(weight) >= 2 and other is not None:
            return (_right if index == 1 else _left)(node, weight, site)
    return None


def _varies(value: ir.Value) -> bool:
    """Whether a value is computed from data, so that it is no weight of a MatMul."""
    producer = value.producer()
    if producer is None:
        return not value.is_initializer()
    return not is_op(producer, "Constant", "DequantizeLinear")


def _right(node: ir.Node, weight: tuple[int, ...], site: Site) -> Linear:
    data_rank, rank = site.shapes.rank(node.inputs[0]), site.shapes.rank(node.outputs[0])
    # A vector on the left gives one axis less.
    out = Lane(-1, weight[-1], rank, len(weight) - 1)
    into = Lane(-1, weight[-2], data_rank, 1)
    add = _bias_add(node, out, site)
    bias = None if add is None else (add, 1 if add.inputs[0] is node.outputs[0] else 0)
    return _MatMul(node, weight, out, into, add or node, bias)


def _bias_add(node: ir.Node, out: Lane, site: Site) -> ir.Node | None:
    user = only_user(node.outputs[0])
    if user is None or not is_op(user, "Add") or user.graph is not node.graph:
        return None
    known = affine(user, site)
    fits = known is not None and out.vector(known, known.shift) is not None
    return user if fits else None


def _left(node: ir.Node, weight: tuple[int, ...], site: Site) -> Linear | None:
    data_rank, rank = site.shapes.rank(node.inputs[1]), site.shapes.rank(node.outputs[0])
    if data_rank is None or data_rank < 2 or rank is None:
        return None
    out, into = Lane(-2, weight[-2], rank, rank), Lane(-2, weight[-1], data_rank, data_rank)
    return _LeftMatMul(node, weight, out, into, node, None, weight_index=0)


def _normalization(node: ir.Node, site: Site) -> Linear | None:
    weight, rank = site.shapes.static_shape(node.inputs[1]), site.shapes.rank(node.outputs[0])
    if weight is None or len(weight) != 1:
        return None
    if node.op_type == "LayerNormalization":
        axis = int_setting(node, "axis", -1)
        if axis is None or (axis != -1 and (rank is None or axis != rank - 1)):
            return None
        return _Normalization(node, weight, Lane(-1, weight[0], rank, 1), None, node, (node, 2))
    return _Normalization(node, weight, Lane(1, weight[0], rank, 2), None, node, (node, 2))


def _float_setting(node: ir.Node, name: str) -> float | None:
    known = node.attributes.get(name)
    if known is None:
        return 1.0
    return None if known.is_ref() else known.as_float()


def _by_group(scale: Wide, weight: tuple[int, ...]) -> Wide:
    """Spread factors over axes 0 and 1 of a weight whose rows lie in groups."""
    groups = scale.size // weight[1]
    spread = np.repeat(scale.reshape(groups, weight[1]), weight[0] // groups, axis=0)
    return spread.reshape(*spread.shape, *[1] * (len(weight) - 2))


def _is_padded(node: ir.Node) -> bool:
    mode, pads = node.attributes.get("auto_pad"), ints_setting(node, "pads", None)
    if "pads" in node.attributes and (pads is None or any(pads)):
        return True
    return mode is not None and (mode.is_ref() or mode.as_string() not in ("NOTSET", "VALID"))


_BUILDERS: dict[str, Callable[[ir.Node, Site], Linear | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _normalization,
    "InstanceNormalization": _normalization,
    "LayerNormalization": _normalization,
}
