"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

LEAKY_RELU_ALPHA = float(np.float32(0.01))
"""The default, as the single-precision number that an attribute holds."""

HARD_SIGMOID_FACTORS = float(np.float32(0.2)), 0.5
"""The defaults of alpha and beta, likewise."""

_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softsign": functional.softsign,
    "Tanh": torch.tanh,
}

_SOFTPLUS_THRESHOLD = 40.0
"""Behind it, softplus is its argument to all digits that float64 has; PyTorch's is 20."""


def _single(number: float) -> float:
    """Return a default as the single-precision number that an attribute holds."""
    return float(np.float32(number))


def _plain(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    @operator(name)
    def compute(_: Call, x: torch.Tensor) -> torch.Tensor:
        return function(x)


for _name, _function in _PLAIN.items():
    _plain(_name, _function)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Scale what is below 0."""
    return functional.leaky_relu(x, call.real("alpha", LEAKY_RELU_ALPHA))


@operator("PRelu")
def parametric_relu(_: Call, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Scale what is below 0 by a slope for each channel or element."""
    if x.dtype in (torch.uint32, torch.uint64):
        return x
    # The limit keeps an infinite element, times the gradient 0, out of the slope's gradient.
    return torch.where(x < 0, x.clamp(max=0) * slope, x)


@operator("Elu")
def elu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `alpha (exp(x) - 1)` below 0."""
    return functional.elu(x, call.real("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `gamma` times `Elu`; the defaults keep the mean and variance of what is normal."""
    alpha = call.real("alpha", _single(1.6732632))
    return call.real("gamma", _single(1.050701)) * functional.elu(x, alpha)


@operator("Celu")
def celu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `alpha (exp(x / alpha) - 1)` below 0."""
    return functional.celu(x, call.real("alpha", 1.0))


@operator("Gelu")
def gelu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute x times the normal distribution function, or its approximation by tanh."""
    return functional.gelu(x, approximate=call.text("approximate", "none"))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `alpha x + beta` within 0 and 1."""
    alpha, beta = HARD_SIGMOID_FACTORS
    return clamped_line(x, call.real("alpha", alpha), call.real("beta", beta))


def clamped_line(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Compute `alpha x + beta` within 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("Softplus")
def softplus(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute `log(1 + exp(x))`."""
    return functional.softplus(x, threshold=_SOFTPLUS_THRESHOLD)


@operator("Swish")
def swish(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Compute x times the sigmoid of `alpha x`."""
    alpha = call.real("alpha", 1.0)
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Pass on what is above `alpha`."""
    return torch.where(x > call.real("alpha", 1.0), x, 0)


@operator("Shrink")
def shrink(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Move elements by `bias` towards 0; those within `lambd` of it become 0."""
    bias, lambd = call.real("bias", 0.0), call.real("lambd", 0.5)
    wide = x if x.is_floating_point() else x.to(torch.float64)
    moved = torch.where(wide < -lambd, wide + bias, torch.where(wide > lambd, wide - bias, 0))
    return moved.to(x.dtype)


def _axis_attribute(call: Call, x: torch.Tensor) -> int:
    """Return the axis of a node; a single number counts as a list of one, as in PyTorch."""
    return axis_of(call.integer("axis", -1), max(x.ndim, 1))


@operator("Softmax")
def softmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Normalize exponentials along an axis."""
    return torch.softmax(x, _axis_attribute(call, x))


@operator("LogSoftmax")
def log_softmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of `Softmax`."""
    return torch.log_softmax(x, _axis_attribute(call, x))


@operator("Hardmax")
def hardmax(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return 1 at the first of the largest elements along an axis, 0 elsewhere."""
    axis = _axis_attribute(call, x)
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)
