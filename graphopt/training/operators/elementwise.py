"""Arithmetic on elements."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value
from graphopt.training.operators.registry import operator
from graphopt.training.unsigned import divided, is_wide_unsigned, modular, ordered

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}

_MODULAR: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Sub": torch.sub,
}


def _unary(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    @operator(name)
    def compute(_: Call, x: torch.Tensor) -> torch.Tensor:
        return function(x)


def _binary(name: str, function: Callable[..., torch.Tensor]) -> None:
    @operator(name)
    def compute(_: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return modular(function, a, b)


for _name, _function in _UNARY.items():
    _unary(_name, _function)
for _name, _exact in _MODULAR.items():
    _binary(_name, _exact)


@operator("Abs")
def absolute(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return absolute values."""
    return x if is_wide_unsigned(x) else torch.abs(x)


@operator("Sign")
def sign(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return -1, 0 or 1; NaN stays."""
    if is_wide_unsigned(x):
        return (x != 0).to(x.dtype)
    # PyTorch's sign of NaN is 0.
    return torch.where(x.isnan(), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


@operator("Div")
def divide(_: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide; integers towards zero."""
    return torch.div(a, b) if a.is_floating_point() else divided(a, b)


@operator("Mod")
def remainder(call: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return remainders, of the sign of the divisor or with `fmod` that of the dividend."""
    if a.dtype == torch.uint64:
        quotient = divided(a, b)
        return modular(lambda x, y, q: x - y * q, a, b, quotient)
    return modular(torch.fmod if call.integer("fmod", 0) else torch.remainder, a, b)


@operator("Pow", numbers=(1,))
def power(call: Call, base: torch.Tensor, exponent: Value) -> torch.Tensor:
    """Raise to a power, and return the type of the base."""
    if isinstance(exponent, Numbers):
        alone = exponent.array.reshape(-1).tolist()
        if base.is_floating_point() and exponent.array.ndim == 0:
            # A number costs no logarithm, and has no gradient that could be NaN.
            return torch.pow(base, alone[0])
        exponent = exponent.tensor(base.device)
    if base.is_floating_point():
        if is_wide_unsigned(exponent):
            exponent = exponent.to(torch.float64)
        return torch.pow(base, exponent).to(base.dtype)
    if exponent.is_floating_point():
        # In the type of the base's reals, as int32 and int64 have more digits than float32.
        return torch.pow(base.to(torch.float64), exponent.to(torch.float64)).to(base.dtype)
    exponent = exponent.to(base.dtype)
    if exponent.ndim == 0:
        # PyTorch refuses a negative exponent of no dimensions.
        return torch.pow(base.unsqueeze(0), exponent.unsqueeze(0)).squeeze(0)
    return torch.pow(base, exponent)


@operator("Max")
def maximum(_: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the largest of the inputs; NaN counts as larger than all."""
    return functools.reduce(functools.partial(ordered, torch.maximum), inputs)


@operator("Min")
def minimum(_: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the smallest of the inputs; NaN counts as smaller than all."""
    return functools.reduce(functools.partial(ordered, torch.minimum), inputs)


@operator("Sum")
def total(_: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """Add the inputs up."""
    return functools.reduce(torch.add, inputs)


@operator("Mean")
def mean(_: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the mean of the inputs."""
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("Clip", numbers=(1, 2))
def clip(_: Call, x: torch.Tensor, low: Value = None, high: Value = None) -> torch.Tensor:
    """Limit elements to bounds, of which the upper one wins; to finite ones without bounds."""
    lower, upper = _clipping_bound(low, x, least=True), _clipping_bound(high, x, least=False)
    if isinstance(lower, torch.Tensor) or isinstance(upper, torch.Tensor):
        for function, bound in ((torch.maximum, lower), (torch.minimum, upper)):
            if bound is not None:
                x = ordered(function, x, torch.as_tensor(bound, dtype=x.dtype, device=x.device))
        return x
    return x if lower is None and upper is None else torch.clamp(x, lower, upper)


def _clipping_bound(bound: Value, x: torch.Tensor, *, least: bool) -> Any:
    """Return a number where it is known, a tensor else, and None where nothing is to be done."""
    if isinstance(bound, torch.Tensor):
        return bound.reshape(())
    if bound is None:
        if not x.is_floating_point():
            return None
        return torch.finfo(x.dtype).min if least else torch.finfo(x.dtype).max
    number = bound.array.item()
    return number if isinstance(number, int | float) else bound.tensor(x.device).reshape(())
