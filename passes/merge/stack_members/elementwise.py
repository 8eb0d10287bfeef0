"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.rewrite.constants import Array
from graphopt.rewrite.dims import Dims
from passes.merge.stack_members.case import Case, Rule
from passes.merge.stack_members.drafts import Wire, literal
from passes.merge.stack_members.layouts import (
    Build,
    Lanes,
    Layout,
    Operand,
    Refused,
    Shared,
    Weights,
)

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]

BROADCAST = [
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]


def unary(case: Case) -> Sequence[Lanes]:
    """Stack operators with one operand, whose settings are equal in all lanes."""
    case.only_first_output()
    lanes = case.lanes()
    return [case.result(case.copied([lanes.wire, *case.rest()]).outputs[0], lanes.layout)]


def broadcasting(case: Case) -> Sequence[Lanes]:
    """Stack operators whose operands are broadcast to one shape."""
    shape = case.shape()
    operands = [operand for operand in case.operands if operand is not None]
    layout, wires = broadcast(case.build, operands, shape)
    return [case.result(case.copied(wires).outputs[0], layout)]


def prelu(case: Case) -> Sequence[Lanes]:
    """Stack PReLUs; ONNX broadcasts their slopes to the data, and not the other way."""
    if not isinstance(case.operands[0], Lanes):
        raise Refused("only the slopes differ, and data are not broadcast to them")
    return broadcasting(case)


def broadcast(build: Build, operands: Sequence[Operand], shape: Dims) -> tuple[Layout, list[Wire]]:
    """Bring operands to one layout, in which they broadcast as they do in each lane.

    Args:
        build: Plans what is needed for that.
        operands: At least one differs from lane to lane.
        shape: Of the result in one lane.

    Returns:
        The layout of the result, and the operands.
    """
    last: Refused | None = None
    for layout in _layouts(operands):
        try:
            return layout, [_fitted(build, operand, layout, shape) for operand in operands]
        except Refused as reason:
            last = reason
    raise last or Refused("no operand is computed in the lanes")


def _layouts(operands: Sequence[Operand]) -> list[Layout]:
    """Return the layouts to try: first the one of the largest operand."""
    lanes = [operand for operand in operands if isinstance(operand, Lanes)]
    if not lanes:
        # Weights beside a value that all share: an image had better stay one.
        ranks = [len(operand.shape) for operand in operands if operand and operand.shape]
        return [*([Layout.CHANNELS] if max(ranks, default=0) > 3 else []), Layout.LEAD]
    first = max(lanes, key=lambda operand: operand.rank).layout
    others = () if first is Layout.COLUMNS else (Layout.MIDDLE,)
    return list(dict.fromkeys((first, *others, Layout.LEAD)))


def _fitted(build: Build, operand: Operand, layout: Layout, shape: Dims) -> Wire:
    if isinstance(operand, Lanes):
        return _fitted_lanes(build, operand, layout, shape)
    if isinstance(operand, Weights):
        return fitted_weights(operand, layout, shape)
    assert isinstance(operand, Shared)
    return _fitted_shared(build, operand, layout, shape)


def _fitted_lanes(build: Build, lanes: Lanes, layout: Layout, shape: Dims) -> Wire:
    missing = len(shape) - lanes.rank
    if missing and layout is not Layout.LEAD:
        raise Refused("operands of different ranks")
    if layout in (Layout.CHANNELS, Layout.COLUMNS) and lanes.shape[1] != shape[1]:
        raise Refused("operands with different numbers of channels")
    wire = build.to(lanes, layout).wire
    if not missing:
        return wire
    return build.with_axes("Unsqueeze", wire, range(1, 1 + missing))


def fitted_weights(weights: Weights, layout: Layout, shape: Dims) -> Wire:
    """Plan constants in the layout of a value of a shape that they are broadcast with."""
    rank = len(shape)
    full = (*[1] * (rank - len(weights.shape)), *weights.shape)
    if len(full) > rank:
        raise Refused("weights of a higher rank than the result")
    if layout in _LANES_AT:
        return weights.stacked(_LANES_AT[layout], lambda array: array.reshape(full))
    channels = shape[1]
    if not isinstance(channels, int) or full[1] not in (1, channels):
        raise Refused("the number of channels is not known")
    target = (full[0], channels, *full[2:])
    if layout is Layout.COLUMNS:
        if full[0] != 1:
            raise Refused("weights for each row")
        target = (1, channels, 1, 1)
        full = (1, full[1], 1, 1)

    def widened(array: Array) -> Array:
        return np.broadcast_to(array.reshape(full), target)

    return weights.concatenated(1, widened)


_LANES_AT = {Layout.LEAD: 0, Layout.MIDDLE: 1}


def _fitted_shared(build: Build, shared: Shared, layout: Layout, shape: Dims) -> Wire:
    if shared.shape is None:
        raise Refused("the rank of a value that the lanes share is not known")
    rank, own = len(shape), len(shared.shape)
    if own > rank:
        raise Refused("a shared value of a higher rank than the result")
    if layout is Layout.LEAD or own == 0:
        return shared.wire
    if layout is Layout.COLUMNS:
        if any(size != 1 for size in shared.shape):
            raise Refused("a shared value beside columns")
        return shared.wire
    if layout is Layout.MIDDLE:
        return shared.wire if own < rank else build.with_axes("Unsqueeze", shared.wire, [1])
    if own < rank - 1 or shared.shape[1 - rank] == 1:
        return shared.wire
    if own < rank or not isinstance(shared.shape[1], int) or shared.shape[1] != shape[1]:
        raise Refused("a shared value with channels")
    repeats = [build.count if axis == 1 else 1 for axis in range(rank)]
    return build.node("Tile", [shared.wire, literal(np.array(repeats, np.int64))])


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BROADCAST, broadcasting),
    "PRelu": prelu,
}
