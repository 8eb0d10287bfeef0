"""Arithmetic on `Numbers`: what graphs compute of sizes, with symbols left as they are."""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.numbers import MAX_NUMBERS, Numbers, Objects, integers_of, number
from graphopt.training.operators.registry import on_numbers
from graphopt.training.operators.shapes import axis_of

Function = Callable[..., Any]

_SYMBOLIC: Any = torch
"""PyTorch, whose functions of symbols have no annotations."""

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_BITS = {torch.int32: 32, torch.int64: 64}
_HELD = {*_BITS, torch.bool, torch.float32, torch.float64}
"""The types whose arithmetic is done here."""

_MOST_POWER = 64
"""Powers beyond this one wrap, which tensors do without writing them out first."""


def _is_symbol(number: Any) -> bool:
    return isinstance(number, _SYMBOLS)


def settled(number: Any, dtype: torch.dtype) -> Any:
    """Return a result as a type holds it: wrapped, or rounded; symbols stay."""
    if isinstance(number, torch.SymBool):
        return _decided(number)
    if _is_symbol(number):
        return number
    if dtype in _BITS:
        half = 2 ** (_BITS[dtype] - 1)
        return (int(number) + half) % (2 * half) - half
    if dtype == torch.bool:
        return bool(number)
    if dtype == torch.float32:
        with np.errstate(over="ignore"):
            return float(np.float32(number))
    return float(number)


def _decided(number: torch.SymBool) -> Any:
    """Return what holds for all sizes; else the symbol."""
    if statically_known_true(number):
        return True
    return False if statically_known_true(_SYMBOLIC.sym_not(number)) else number


def elementwise(function: Function, dtype: torch.dtype, *inputs: Numbers) -> Any:
    """Compute each element of the result; NotImplemented where tensors do it as well or better.

    Args:
        function: Takes one element of each input; may raise `_NoNumber`.
        dtype: The type of the result.
        *inputs: What is broadcast.
    """
    if any(each.dtype not in _HELD for each in inputs) or dtype not in _HELD:
        return NotImplemented
    arrays = np.broadcast_arrays(*(each.array for each in inputs))
    flat = [each.reshape(-1).tolist() for each in arrays]
    if len(flat[0]) > MAX_NUMBERS and not any(_is_symbol(each) for row in flat for each in row):
        return NotImplemented
    made = np.empty(len(flat[0]), dtype=object)
    try:
        made[:] = [settled(function(*row), dtype) for row in zip(*flat, strict=True)]
    except (_NoNumberError, ArithmeticError, ValueError):
        # A division by zero, a root of a negative number: tensors know the answer.
        return NotImplemented
    return Numbers(made.reshape(arrays[0].shape), dtype)


class _NoNumberError(Exception):
    """Numbers of Python have no such result."""


def _quotient(a: Any, b: Any) -> Any:
    """Divide integers towards zero."""
    if a >= 0:
        return a // b if b > 0 else -(a // -b)
    return -(-a // b) if b > 0 else -a // -b


def _truncated_remainder(a: Any, b: Any) -> Any:
    return a - _quotient(a, b) * b


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and (b < 0 or b > _MOST_POWER):
        raise _NoNumberError
    found = a**b
    if isinstance(found, complex):
        raise _NoNumberError
    return found


def _larger(a: Any, b: Any) -> Any:
    if _is_symbol(a) or _is_symbol(b):
        return _SYMBOLIC.sym_max(a, b)
    return a if a >= b or math.isnan(a) else b


def _smaller(a: Any, b: Any) -> Any:
    if _is_symbol(a) or _is_symbol(b):
        return _SYMBOLIC.sym_min(a, b)
    return a if a <= b or math.isnan(a) else b


def _rounded(function: Callable[[Any], Any]) -> Function:
    """Return a function that rounds, and leaves what is not finite."""

    def compute(x: Any) -> Any:
        if isinstance(x, torch.SymFloat):
            return _SYMBOLIC.sym_float(function(x))
        return x if not math.isfinite(x) else math.copysign(function(x), x)

    return compute


def _root(x: Any) -> Any:
    return _SYMBOLIC.sym_sqrt(x) if _is_symbol(x) else math.sqrt(x)


_ARITHMETIC: dict[str, Function] = {
    "Abs": abs,
    "Add": python.add,
    "And": python.and_,
    "Ceil": _rounded(math.ceil),
    "Floor": _rounded(math.floor),
    "Max": lambda *row: functools.reduce(_larger, row),
    "Mean": lambda *row: functools.reduce(python.add, row) / len(row),
    "Min": lambda *row: functools.reduce(_smaller, row),
    "Mul": python.mul,
    "Neg": python.neg,
    "Not": _SYMBOLIC.sym_not,
    "Or": python.or_,
    "Pow": _power,
    "Reciprocal": lambda x: 1.0 / x,
    "Round": _rounded(round),
    "Sqrt": _root,
    "Sub": python.sub,
    "Sum": lambda *row: functools.reduce(python.add, row),
}
_COMPARISONS: dict[str, Function] = {
    "Equal": python.eq,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "Less": python.lt,
    "LessOrEqual": python.le,
}


def _register(name: str, function: Function, dtype: torch.dtype | None = None) -> None:
    @on_numbers(name)
    def compute(_: Call, *inputs: Numbers) -> Any:
        return elementwise(function, dtype or inputs[0].dtype, *inputs)


for _name, _function in _ARITHMETIC.items():
    _register(_name, _function)
for _name, _function in _COMPARISONS.items():
    _register(_name, _function, torch.bool)


@on_numbers("Div")
def divide(_: Call, a: Numbers, b: Numbers) -> Any:
    """Divide; integers towards zero."""
    return elementwise(_quotient if a.dtype in _BITS else python.truediv, a.dtype, a, b)


@on_numbers("Mod")
def remainder(call: Call, a: Numbers, b: Numbers) -> Any:
    """Return remainders of integers."""
    if a.dtype not in _BITS:
        return NotImplemented
    function = _truncated_remainder if call.integer("fmod", 0) else python.mod
    return elementwise(function, a.dtype, a, b)


@on_numbers("Clip")
def clip(_: Call, x: Numbers, *bounds: Numbers | None) -> Any:
    """Limit integers to bounds."""
    if x.dtype not in _BITS:
        return NotImplemented
    found: Any = x
    for function, bound in zip((_larger, _smaller), bounds, strict=False):
        if bound is not None and found is not NotImplemented:
            # A bound is one number, in whatever shape.
            found = elementwise(function, x.dtype, found, number(bound.array.item(), x.dtype))
    return found


@on_numbers("Where")
def where(_: Call, condition: Numbers, x: Numbers, y: Numbers) -> Any:
    """Choose numbers."""
    return elementwise(_chosen, x.dtype, condition, x, y)


def _chosen(condition: Any, x: Any, y: Any) -> Any:
    if isinstance(condition, torch.SymBool) and isinstance(x, int | torch.SymInt):
        # PyTorch chooses between two of a kind alone, not between a number and a symbol.
        chosen = _SYMBOLIC.sym_ite(condition, 1, 0)
        return x * chosen + y * (1 - chosen)
    return x if condition else y


@on_numbers("Cast", "CastLike")
def cast(call: Call, x: Numbers, *_: Numbers) -> Any:
    """Convert numbers."""
    target = call.output_type()
    if target is None:
        return NotImplemented
    dtype = torch_dtype(target)
    return elementwise(_conversion(dtype), dtype, x)


def _conversion(dtype: torch.dtype) -> Function:
    if dtype in _BITS:
        return functools.partial(_integer, bits=_BITS[dtype])
    if dtype == torch.bool:
        return lambda x: x != 0
    return lambda x: _SYMBOLIC.sym_float(x) if _is_symbol(x) else float(x)


def _integer(x: Any, bits: int) -> Any:
    if isinstance(x, torch.SymBool):
        return _SYMBOLIC.sym_ite(x, 1, 0)
    if _is_symbol(x):
        return _SYMBOLIC.sym_int(x)
    if isinstance(x, float) and not abs(x) < 2.0 ** (bits - 1):
        raise _NoNumberError
    return int(x)


_REDUCTIONS: dict[str, tuple[Function, Any]] = {
    # With what reducing no elements gives; None: tensors know.
    "ReduceMax": (_larger, None),
    "ReduceMin": (_smaller, None),
    "ReduceProd": (python.mul, 1),
    "ReduceSum": (python.add, 0),
}


def _register_reduction(name: str, function: Function, start: Any) -> None:
    @on_numbers(name)
    def compute(call: Call, x: Numbers, axes: Numbers | None = None) -> Any:
        if x.dtype not in _HELD or (start is None and x.array.size == 0):
            return NotImplemented
        chosen = [] if axes is None else integers_of(axes)
        if not chosen:
            if call.integer("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.array.ndim))
        found = x.array
        for axis in sorted((axis_of(each, x.array.ndim) for each in chosen), reverse=True):
            found = _reduced(found, axis, function, start, x.dtype)
        if call.integer("keepdims", 1):
            found = np.expand_dims(found, tuple(axis_of(each, x.array.ndim) for each in chosen))
        return Numbers(found, x.dtype)


def _reduced(
    array: Objects, axis: int, function: Function, start: Any, dtype: torch.dtype
) -> Objects:
    rows = np.moveaxis(array, axis, -1)
    made = np.empty(rows.shape[:-1], dtype=object)
    for index in np.ndindex(made.shape):
        row = rows[index].tolist()
        total = row.pop(0) if row else settled(start, dtype)
        for each in row:
            total = settled(function(total, each), dtype)
        made[index] = total
    return made


for _name, (_function, _start) in _REDUCTIONS.items():
    _register_reduction(_name, _function, _start)
