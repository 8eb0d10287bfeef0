"""Products of com.microsoft with weights of few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.contrib.attention import attended
from graphopt.training.operators.registry import MICROSOFT, operator
from graphopt.training.operators.zero_points import centred


@dataclass(frozen=True)
class Rounded:
    """A tensor as whole numbers times a scale.

    Args:
        numbers: Whole numbers in float64, which sums of their products are exact in.
        scale: The scale.
    """

    numbers: torch.Tensor
    scale: torch.Tensor


def rounded(x: torch.Tensor) -> Rounded:
    """Round a tensor to 8 bits between its least and its largest element.

    The gradient goes straight through the rounding.
    """
    held = x.detach()
    least, largest = held.amin().clamp(max=0), held.amax().clamp(min=0)
    scale = torch.where(least == largest, 1.0, (largest - least) / 255)
    point = torch.round((0 - least / scale).clamp(0, 255))
    whole = (torch.round(held / scale) + point).clamp(0, 255) - point
    numbers = whole.to(torch.float64)
    if x.requires_grad:
        exact = x.to(torch.float64) / scale.to(torch.float64)
        numbers = exact + (numbers - exact).detach()
    return Rounded(numbers, scale)


def centred_columns(numbers: torch.Tensor, point: torch.Tensor | None) -> torch.Tensor:
    """Take a zero point off whole numbers: one for all, or one for each column."""
    return centred(numbers, None if point is None else _column(point, numbers))


def _column(factor: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Let a factor of a matrix, or of each of several matrices, fit their columns."""
    if factor.numel() == 1:
        return factor.reshape(())
    return factor.unsqueeze(-2) if factor.ndim == numbers.ndim - 1 > 1 else factor


def scaled_product(x: Rounded, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply whole numbers, and scale the result."""
    factor = x.scale * _column(scale, weight)
    return torch.matmul(x.numbers, weight).to(torch.float32) * factor


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    _: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Any:
    """Multiply what is rounded to 8 bits by a quantized matrix."""
    found = scaled_product(rounded(x), centred_columns(weight, point), scale)
    return found if bias is None else found + bias


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    _: Call,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    a_point: torch.Tensor | None = None,
    b_point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Any:
    """Multiply quantized matrices."""
    x = Rounded(
        centred_columns(a, a_point), a_scale.reshape(()) if a_scale.numel() == 1 else a_scale
    )
    found = scaled_product(x, centred_columns(b, b_point), b_scale)
    return found if bias is None else found + bias


@operator("QAttention", domain=MICROSOFT)
def quantized_attention(
    call: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    x_scale: torch.Tensor,
    scale: torch.Tensor,
    mask: torch.Tensor | None = None,
    x_point: torch.Tensor | None = None,
    point: torch.Tensor | None = None,
    past: torch.Tensor | None = None,
) -> Any:
    """Project quantized inputs, and let heads attend."""
    quantized = Rounded(centred_columns(x, x_point), x_scale.reshape(()))
    projected = scaled_product(quantized, centred_columns(weight, point), scale) + bias
    return attended(call, projected, mask, past, None)


@operator("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(
    call: Call,
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    points: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Any:
    """Multiply by a matrix whose rows are quantized in blocks."""
    bits, block = call.integer("bits", 4), call.integer("block_size")
    columns, summed = call.integer("N"), call.integer("K")
    if bits not in (2, 4, 8):
        raise call.refused(f"it packs {bits} bits")
    blocks = -(-summed // block)
    whole = unpacked(packed.reshape(columns, -1), bits)[:, : blocks * block].to(x.dtype)
    if points is None:
        middle = torch.full((columns, blocks), float(1 << (bits - 1)), device=x.device)
    elif points.is_floating_point():
        middle = points.reshape(columns, blocks)
    else:
        middle = unpacked(points.reshape(columns, -1), bits)[:, :blocks]
    factors = scales.reshape(columns, blocks).to(x.dtype)
    if groups is None:
        owner = torch.arange(summed, device=x.device) // block
    else:
        owner = groups[:summed].to(torch.int64)
    weight = (whole[:, :summed] - middle.to(x.dtype)[:, owner]) * factors[:, owner]
    return functional.linear(x, weight, bias)


def unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack the bytes of the last axis: of the numbers in one, the lowest bits come first."""
    if bits == 8:
        return packed
    wide = packed.to(torch.int32)
    shifts = range(0, 8, bits)
    parts = [(wide >> shift) & ((1 << bits) - 1) for shift in shifts]
    return torch.stack(parts, -1).flatten(-2)
