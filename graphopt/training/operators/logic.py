"""Comparisons, truth values and bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator
from graphopt.training.unsigned import modular, sortable

_COMPARISONS = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_TRUTH: dict[str, Callable[..., torch.Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_BITS: dict[str, Callable[..., torch.Tensor]] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def _compare(name: str, function: Callable[..., torch.Tensor]) -> None:
    @operator(name)
    def compute(_: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return function(sortable(a), sortable(b))


def _combine(name: str, function: Callable[..., torch.Tensor]) -> None:
    @operator(name)
    def compute(_: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return modular(function, a, b)


for _name, _function in _COMPARISONS.items():
    _compare(_name, _function)
for _name, _function in {**_TRUTH, **_BITS}.items():
    _combine(_name, _function)


@operator("Not")
def negate(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return what is false."""
    return torch.logical_not(x)


@operator("BitwiseNot")
def complement(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Turn each bit."""
    return modular(torch.bitwise_not, x)


@operator("BitShift")
def shift(call: Call, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Move bits; those that enter are 0."""
    if call.text("direction") == "LEFT":
        return modular(torch.bitwise_left_shift, x, by)
    return modular(_shift_right, x, by)


def _shift_right(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    shifted = torch.bitwise_right_shift(x, by)
    if x.dtype != torch.int64:
        return shifted
    # An int64 stands for an unsigned number here: copies of its highest bit are no part of it.
    kept = torch.bitwise_left_shift(torch.ones_like(by), 64 - by) - 1
    return shifted & kept


@operator("IsNaN")
def is_nan(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Tell which elements are NaN."""
    return torch.isnan(_computable(x))


@operator("IsInf")
def is_infinite(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Tell which elements are infinite, of the signs that the attributes name."""
    wide = _computable(x)
    found = torch.zeros_like(wide, dtype=torch.bool)
    if call.integer("detect_positive", 1):
        found = found | torch.isposinf(wide)
    if call.integer("detect_negative", 1):
        found = found | torch.isneginf(wide)
    return found


def _computable(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float32) if x.dtype.itemsize == 1 else x


@operator("Where")
def where(_: Call, condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Choose elements of the one input or the other."""
    return torch.where(condition, x, y)
