"""Operators that compute each element from those at the same place."""

from __future__ import annotations

from passes.prune.places import Ids, Place
from passes.prune.site import Site

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
"""What further inputs these have are numbers that hold for all elements."""

BROADCAST = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"),
    *("PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)

_OLD_BROADCAST = 7
"""Before this opset, operands are laid against each other by attributes."""


def unary(site: Site) -> None:
    """Let all axes pass, to the mask of a Dropout as well."""
    source, target = site.ends()
    site.join_all(source, target)
    if site.node.op_type == "Dropout":
        mask = site.output(1)
        if mask is not None:
            site.join_all(target, mask)


def broadcast(site: Site) -> None:
    """Join the axes of operands with those of the output, from the last one."""
    target = site.output(0)
    if target is None:
        raise site.mixed("has no output")
    for index in range(len(site.node.inputs)):
        operand = site.input(index)
        if operand is not None:
            if site.opset < _OLD_BROADCAST and len(site.dims(operand)) != len(site.dims(target)):
                raise site.mixed("lays its operands against each other by attributes")
            align(site, operand, target)


def align(site: Site, operand: Place, target: Place, behind: int = 0) -> None:
    """Join the axes of an operand with those it is broadcast to, but for the last ones.

    Args:
        site: The node.
        operand: What is broadcast.
        target: What it is broadcast to.
        behind: How many last axes of both are left out.
    """
    dims, goal = site.dims(operand), site.dims(target)
    if len(dims) > len(goal):
        raise site.mixed("has tensors of unknown ranks")
    shift = len(goal) - len(dims)
    for axis in range(len(dims) - behind):
        if dims[axis] != 1:
            site.join(operand, axis, target, axis + shift)


def elementwise_ids(site: Site, place: Place | None, ids: Ids | None) -> None:
    """Join the only axis of a vector, where it is one, with slices."""
    if place is None:
        return
    dims = site.dims(place)
    if len(dims) != 1:
        site.keep(place)
        site.join_ids(ids, None)
    elif dims[0] != 1:
        site.join_ids(site.ids(place, 0), ids)
