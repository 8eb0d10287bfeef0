"""Operators of com.microsoft that are several of ONNX in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.activations import (
    HARD_SIGMOID_FACTORS,
    LEAKY_RELU_ALPHA,
    clamped_line,
    gelu,
)
from graphopt.training.operators.convolution import conv
from graphopt.training.operators.matrix import transposed_operands
from graphopt.training.operators.registry import MICROSOFT, operator

operator("Gelu", domain=MICROSOFT)(gelu)


@operator("BiasGelu", domain=MICROSOFT)
def bias_gelu(_: Call, x: torch.Tensor, bias: torch.Tensor) -> Any:
    """Add a bias, and apply Gelu."""
    return functional.gelu(x + bias)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(_: Call, x: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """Apply Gelu in its approximation by tanh."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: torch.Tensor) -> Any:
    """Multiply by a sigmoid."""
    return x * torch.sigmoid(call.real("alpha", 1.702) * x)


@operator("Inverse", domain=MICROSOFT)
def inverse(_: Call, x: torch.Tensor) -> Any:
    """Invert matrices."""
    return torch.linalg.inv(x)


@operator("CDist", domain=MICROSOFT)
def distances(call: Call, a: torch.Tensor, b: torch.Tensor) -> Any:
    """Return the distance of each row to each other row."""
    # What subtracts squares loses the digits of small distances.
    found = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return found.square() if call.text("metric", "sqeuclidean") == "sqeuclidean" else found


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(call: Call, a: torch.Tensor, b: torch.Tensor) -> Any:
    """Multiply matrices, which may be transposed, and scale the product."""
    left, right = _turned(call, a, "A"), _turned(call, b, "B")
    return torch.matmul(left, right) * call.real("alpha", 1.0)


def _turned(call: Call, x: torch.Tensor, side: str) -> torch.Tensor:
    if call.integer(f"transBatch{side}", 0):
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if call.integer(f"trans{side}", 0) and x.ndim > 1 else x


@operator("FusedConv", domain=MICROSOFT)
def fused_conv(
    call: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
) -> Any:
    """Convolve, add, and apply an activation."""
    found = conv(call, x, weight, bias)
    added = found if z is None else found + z
    return _activated(call, added, call.reals("activation_params", []))


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> Any:
    """Multiply matrices, add, and apply an activation."""
    left, right = transposed_operands(call, a, b)
    found = call.real("alpha", 1.0) * torch.matmul(left, right)
    if c is not None:
        found = found + call.real("beta", 1.0) * c
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return _activated(call, found, [call.real(name) for name in names if call.has(name)])


def _activated(call: Call, x: torch.Tensor, given: list[float]) -> torch.Tensor:
    name = call.text("activation", "")
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise call.refused(f"its activation {name!r} is not known")
    function, defaults = _ACTIVATIONS[name]
    return function(x, *given[: len(defaults)], *defaults[len(given) :])


_ACTIVATIONS: dict[str, tuple[Callable[..., torch.Tensor], tuple[float, ...]]] = {
    "Relu": (functional.relu, ()),
    "Tanh": (torch.tanh, ()),
    "Sigmoid": (torch.sigmoid, ()),
    "LeakyRelu": (functional.leaky_relu, (LEAKY_RELU_ALPHA,)),
    "Clip": (torch.clamp, (torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)),
    "HardSigmoid": (clamped_line, HARD_SIGMOID_FACTORS),
}
"""Functions, and the defaults of their parameters."""
