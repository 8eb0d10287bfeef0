"""Element-wise operators and casts that change no element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import array, constant, is_op, scalar
from passes.cleanup.sites import Site, int_setting, optional_input

_MODERN_BROADCAST = 7
"""Since this opset, shapes align at their last axes."""


def _identity(node: ir.Node, site: Site) -> ir.Value | None:
    del site
    return node.inputs[0]


def _cast(node: ir.Node, site: Site) -> ir.Value | None:
    known = site.shapes.dtype(node.inputs[0])
    return node.inputs[0] if known is not None and known == int_setting(node, "to", -1) else None


def _cast_like(node: ir.Node, site: Site) -> ir.Value | None:
    known = site.shapes.dtype(node.inputs[0])
    like = site.shapes.dtype(optional_input(node, 1))
    return node.inputs[0] if known is not None and known == like else None


def _dropout(node: ir.Node, site: Site) -> ir.Value | None:
    """Dropout passes everything through unless it trains.

    Up to opset 6 it trains unless `is_test` says otherwise; from opset 12 on an input decides.
    """
    if site.opset < 7:
        inference = int_setting(node, "is_test", 0) == 1
    else:
        mode = optional_input(node, 2)
        inference = mode is None or scalar(mode) == 0
    return node.inputs[0] if inference else None


def _neutral(element: int, *, also_left: bool) -> Callable[[ir.Node, Site], ir.Value | None]:
    """Return the check for an operator with a neutral element on its right, or on both sides."""

    def check(node: ir.Node, site: Site) -> ir.Value | None:
        if site.opset < _MODERN_BROADCAST or len(node.inputs) != 2:
            return None
        left, right = node.inputs
        if _is_neutral(right, element, left, node, site):
            return left
        return right if also_left and _is_neutral(left, element, right, node, site) else None

    return check


def _is_neutral(
    value: ir.Value | None, element: int, other: ir.Value | None, node: ir.Node, site: Site
) -> bool:
    """Whether a constant is neutral throughout, and broadcasting leaves `other` as it is."""
    tensor = constant(value)
    if tensor is None or tensor.size == 0 or not _is_number(tensor.dtype):
        return False
    if len(tensor.shape) > 0 and not _keeps_shape(tensor, other, node, site):
        return False
    contents = array(value)
    return contents is not None and bool(np.all(contents == element))


def _keeps_shape(
    tensor: ir.TensorProtocol, other: ir.Value | None, node: ir.Node, site: Site
) -> bool:
    rank = site.shapes.rank(other)
    if tensor.size == 1:
        return rank is not None and rank >= len(tensor.shape)
    return site.shapes.same_shape(other, node.outputs[0])


def _is_number(dtype: ir.DataType) -> bool:
    return dtype.is_integer() or dtype.is_floating_point() or dtype == ir.DataType.BOOL


def _single_input(node: ir.Node, site: Site) -> ir.Value | None:
    """Sum, Max, Min and Mean of one tensor."""
    del site
    return node.inputs[0] if len(node.inputs) == 1 else None


def _inverse(node: ir.Node, site: Site) -> ir.Value | None:
    """Not of Not, and Neg of Neg."""
    del site
    inner = _producer(node.inputs[0])
    return inner.inputs[0] if is_op(inner, node.op_type) and inner is not None else None


def _idempotent(node: ir.Node, site: Site) -> ir.Value | None:
    """Relu of Relu, and other operators that find nothing left to do."""
    del site
    return node.inputs[0] if is_op(_producer(node.inputs[0]), node.op_type) else None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _where(node: ir.Node, site: Site) -> ir.Value | None:
    condition, when_true, when_false = node.inputs
    if when_true is when_false:
        chosen = when_true
    else:
        contents = array(condition)
        if contents is None or contents.size == 0 or contents.min() != contents.max():
            return None
        chosen = when_true if contents.all() else when_false
    return chosen if site.shapes.same_shape(chosen, node.outputs[0]) else None


def _clip(node: ir.Node, site: Site) -> ir.Value | None:
    """Clip without bounds (up to opset 10 attributes with defaults bound it)."""
    if site.opset < 11 or any(value is not None for value in node.inputs[1:]):
        return None
    return node.inputs[0]


CHECKS: dict[str, Callable[[ir.Node, Site], ir.Value | None]] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    # x + 0 turns -0.0 into 0.0, which compare equal.
    "Add": _neutral(0, also_left=True),
    "Sub": _neutral(0, also_left=False),
    "Mul": _neutral(1, also_left=True),
    "Div": _neutral(1, also_left=False),
    "Pow": _neutral(1, also_left=False),
    "Or": _neutral(0, also_left=True),
    "Xor": _neutral(0, also_left=True),
    "And": _neutral(1, also_left=True),
    "Sum": _single_input,
    "Max": _single_input,
    "Min": _single_input,
    "Mean": _single_input,
    "Not": _inverse,
    "Neg": _inverse,
    "Relu": _idempotent,
    "Abs": _idempotent,
    "Ceil": _idempotent,
    "Floor": _idempotent,
    "Round": _idempotent,
    "Sign": _idempotent,
    "Where": _where,
    "Clip": _clip,
}
