"""Operators that can work on data whose axes stand in another order, and what they turn into.

An *order* of a value says what Transpose (`perm`) would make of it: axis `i` of the turned value
is axis `order[i]` of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import array, constant
from passes.cleanup.axes import absolute, axes_of
from passes.cleanup.layout_chains import REDUCTIONS
from passes.cleanup.sites import Site, int_setting, ints_setting, is_given, optional_input

Order = tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """How a node works on turned data.

    Args:
        inputs: The inputs that it reads turned, and their orders; all others it reads as they are.
            A constant may have fewer axes than its order: it has ones in front then.
        outputs: The outputs that come turned; all others come as they are.
        settings: Inputs that are other constants than before.
        attributes: Attributes that are others than before.
        op_type: The operator, where it is another.
    """

    inputs: Mapping[int, Order]
    outputs: Mapping[int, Order]
    settings: Mapping[int, ir.TensorProtocol] = field(default_factory=dict)
    attributes: Mapping[str, ir.Attr] = field(default_factory=dict)
    op_type: str | None = None


@dataclass(frozen=True)
class Turning:
    """A node that is to be turned.

    Args:
        node: The node.
        site: Where it stands.
        orders: The orders of the values that are to be turned, some of the node's among them.
    """

    node: ir.Node
    site: Site
    orders: Mapping[ir.Value, Order]

    def order(self, value: ir.Value | None) -> Order | None:
        """Return the order that a value is to be turned to; None if it is not."""
        return None if value is None else self.orders.get(value)

    def shared_order(self) -> Order | None:
        """Return the order of the data or the first output that is turned."""
        values = (optional_input(self.node, 0), *self.node.outputs)
        return next((known for value in values if (known := self.order(value))), None)

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of axes of a value, from its shape or its order."""
        known = self.site.shapes.rank(value)
        if known is not None or value is None:
            return known
        order = self.order(value) or perm(value.producer())
        return None if order is None else len(order)


Rule = Callable[[Turning], Turn | None]


def perm(node: ir.Node | None) -> Order | None:
    """Return the order that a Transpose writes down; None for all other nodes."""
    if node is None or node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return None
    written = ints_setting(node, "perm", None)
    is_whole = written is not None and sorted(written) == list(range(len(written)))
    return tuple(written) if written is not None and is_whole else None


def inverse(order: Order) -> Order:
    """Return the order that brings turned axes back."""
    return tuple(order.index(axis) for axis in range(len(order)))


def is_kept(order: Sequence[int]) -> bool:
    """Whether an order leaves all axes where they are."""
    return list(order) == list(range(len(order)))


def _elementwise(turning: Turning) -> Turn | None:
    order = turning.shared_order()
    return None if order is None else Turn({0: order}, {0: order})


def _broadcast(turning: Turning) -> Turn | None:
    """Operators over several operands whose shapes align at their last axes."""
    node = turning.node
    ranks = [turning.rank(value) for value in node.inputs]
    if turning.site.opset < 8 or not ranks or None in ranks:
        return None
    rank = max(known for known in ranks if known is not None)
    order = _widest(turning, rank)
    if order is None or len(order) != rank:
        return None
    turned = dict[int, Order]()
    for index, value in enumerate(node.inputs):
        own = ranks[index]
        assert own is not None
        if turning.site.shapes.static_shape(value) == (1,) * own:
            continue
        missing = rank - own
        if constant(value) is not None:
            turned[index] = order
        elif not is_kept(order[:missing]):
            return None
        elif not is_kept(order):
            turned[index] = tuple(axis - missing for axis in order[missing:])
    return Turn(turned, {0: order})


def _widest(turning: Turning, rank: int) -> Order | None:
    """Return the order of the result, seen from whichever value is turned."""
    for value in (*turning.node.outputs, *turning.node.inputs):
        order = turning.order(value)
        if order is not None:
            missing = rank - len(order)
            return (*range(missing), *(axis + missing for axis in order))
    return None


def _axis(default: int | None, *, since: int = 1) -> Rule:
    """Return the rule of operators that work along one axis and keep all others."""

    def rule(turning: Turning) -> Turn | None:
        order = turning.shared_order()
        axis = _turned_axis(turning.node, default, order)
        if order is None or axis is None or turning.site.opset < since:
            return None
        outputs = dict.fromkeys(range(len(turning.node.outputs)), order)
        return Turn({0: order}, outputs, attributes={"axis": ir.AttrInt64("axis", axis)})

    return rule


def _turned_axis(node: ir.Node, default: int | None, order: Order | None) -> int | None:
    known = node.attributes.get("axis")
    axis = default if known is None else None if known.is_ref() else known.as_int()
    if axis is None or order is None or not -len(order) <= axis < len(order):
        return None
    return order.index(axis % len(order))


def _softmax(turning: Turning) -> Turn | None:
    """Not away from the last axis, where kernels are fastest."""
    turn = _axis(-1, since=13)(turning)
    if turn is None:
        return None
    order = turn.inputs[0]
    axis = turn.attributes["axis"].as_int()
    leaves_the_end = order[axis] == len(order) - 1 != axis
    return None if leaves_the_end else turn


def _concat(turning: Turning) -> Turn | None:
    values = (*turning.node.outputs, *turning.node.inputs)
    order = next((known for value in values if (known := turning.order(value))), None)
    axis = _turned_axis(turning.node, None, order)
    if order is None or axis is None:
        return None
    inputs = dict.fromkeys(range(len(turning.node.inputs)), order)
    return Turn(inputs, {0: order}, attributes={"axis": ir.AttrInt64("axis", axis)})


def _reduction(turning: Turning) -> Turn | None:
    node, order = turning.node, turning.shared_order()
    keeps = int_setting(node, "keepdims", 1)
    if keeps == 0:
        order = turning.order(node.inputs[0])
    if order is None or keeps is None:
        return None
    if not is_given(node, "axes", 1):
        reduces = int_setting(node, "noop_with_empty_axes", 0) == 0
        return Turn({0: order}, {0: order} if keeps else {}) if reduces else None
    axes = axes_of(node, len(order))
    if not axes:
        return None
    outputs = {0: order} if keeps else _remaining(order, axes)
    turned = sorted(order.index(axis) for axis in axes)
    return _with_setting(turning, "axes", 1, turned, Turn({0: order}, outputs))


def _with_setting(
    turning: Turning, name: str, index: int, numbers: Sequence[int], turn: Turn
) -> Turn | None:
    """Write integers where the node has them, as an attribute or as an input.

    An input gets the type of the last setting in front of it that stands.
    """
    node = turning.node
    if len(node.inputs) < 2 or name in node.attributes:
        return replace(turn, attributes={name: ir.AttrInt64s(name, list(numbers))})
    like = optional_input(node, index) or node.inputs[1]
    dtype = turning.site.shapes.dtype(like)
    if dtype is None or not dtype.is_integer():
        return None
    return replace(turn, settings={index: ir.Tensor(np.array(list(numbers), dtype.numpy()))})


def _remaining(order: Order, gone: Sequence[int]) -> dict[int, Order]:
    """Say how the first output is turned, without the axes that go."""
    kept = [axis for axis in order if axis not in gone]
    left = tuple(sorted(kept).index(axis) for axis in kept)
    return {} if is_kept(left) else {0: left}


def _arg(turning: Turning) -> Turn | None:
    node, keeps = turning.node, int_setting(turning.node, "keepdims", 1)
    order = turning.shared_order() if keeps else turning.order(node.inputs[0])
    axis = _turned_axis(node, 0, order)
    if order is None or axis is None or keeps is None:
        return None
    outputs = {0: order} if keeps else _remaining(order, [order[axis]])
    return Turn({0: order}, outputs, attributes={"axis": ir.AttrInt64("axis", axis)})


def _gather(turning: Turning) -> Turn | None:
    """Elements along one axis, or one element, which drops the axis."""
    node, site = turning.node, turning.site
    picked = site.shapes.rank(node.inputs[1])
    order = turning.shared_order() if picked == 1 else turning.order(node.inputs[0])
    axis = _turned_axis(node, 0, order)
    if order is None or axis is None or picked not in (0, 1):
        return None
    outputs = {0: order} if picked else _remaining(order, [order[axis]])
    return Turn({0: order}, outputs, attributes={"axis": ir.AttrInt64("axis", axis)})


def _slice(turning: Turning) -> Turn | None:
    node, order = turning.node, turning.shared_order()
    if order is None:
        return None
    axes = ints_setting(node, "axes", 3)
    if not is_given(node, "axes", 3):
        starts = ints_setting(node, "starts", 1)
        axes = None if starts is None else range(len(starts))
    known = absolute(axes, len(order))
    if known is None:
        return None
    turned = [order.index(axis) for axis in known]
    return _with_setting(turning, "axes", 3, turned, Turn({0: order}, {0: order}))


def _pad(turning: Turning) -> Turn | None:
    node, order = turning.node, turning.shared_order()
    if order is None:
        return None
    turn = Turn({0: order}, {0: order})
    if optional_input(node, 3) is not None:
        axes = absolute(ints_setting(node, "axes", 3), len(order))
        turned = None if axes is None else [order.index(axis) for axis in axes]
        return None if turned is None else _with_setting(turning, "axes", 3, turned, turn)
    pads = ints_setting(node, "pads", 1)
    if pads is None or len(pads) != 2 * len(order):
        return None
    moved = [pads[axis + end] for end in (0, len(order)) for axis in order]
    return _with_setting(turning, "pads", 1, moved, turn)


def _tile(turning: Turning) -> Turn | None:
    order, repeats = turning.shared_order(), array(optional_input(turning.node, 1))
    if order is None or repeats is None or repeats.shape != (len(order),):
        return None
    return Turn({0: order}, {0: order}, {1: ir.Tensor(repeats[list(order)])})


def _resize(turning: Turning) -> Turn | None:
    """Interpolation keeps away from the first two axes: kernels take nothing else."""
    node, site, order = turning.node, turning.site, turning.shared_order()
    if order is None or site.opset < 11 or "axes" in node.attributes:
        return None
    texts = {name: _text(node, name) for name in ("mode", "coordinate_transformation_mode")}
    if None in texts.values() or "tf_crop_and_resize" in texts.values():
        return None
    if "keep_aspect_ratio_policy" in node.attributes:
        return None
    index = 2 if optional_input(node, 3) is None else 3
    goal = array(optional_input(node, index))
    if goal is None or goal.shape != (len(order),):
        return None
    before = site.shapes.shape(node.inputs[0]) if index == 3 else (1,) * len(order)
    inside = before is not None and all(before[axis] == goal[axis] for axis in order[:2])
    if texts["mode"] not in ("nearest", "") and not (inside and len(order) in (4, 5)):
        return None
    return Turn({0: order}, {0: order}, {index: ir.Tensor(goal[list(order)])})


def _text(node: ir.Node, name: str) -> str | None:
    known = node.attributes.get(name)
    if known is None:
        return ""
    return None if known.is_ref() else known.as_string()


def _quantization(turning: Turning) -> Turn | None:
    order = turning.shared_order()
    if order is None or int_setting(turning.node, "block_size", 0) != 0:
        return None
    scale = turning.site.shapes.static_shape(turning.node.inputs[1])
    if scale in ((), (1,)):
        return Turn({0: order}, {0: order})
    return _axis(1, since=13)(turning) if scale is not None and len(scale) == 1 else None


_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not"),
    *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
_BROADCAST = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantization),
    "Split": _axis(0, since=2),
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "Resize": _resize,
}
