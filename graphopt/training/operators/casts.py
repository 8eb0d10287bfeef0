"""Conversions between element types."""

from __future__ import annotations

import onnx_ir as ir
import torch

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.operators.registry import operator

_SIGNED_BITS = {ir.DataType.INT4: 4, ir.DataType.INT2: 2}
_UNSIGNED_BITS = {ir.DataType.UINT4: 4, ir.DataType.UINT2: 2}
_FLOAT8 = {
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
}
_FLOAT8_E4M3FN_LAST = 464.0
"""The largest number that rounds to 448, half way to where the next one would be."""

_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of FLOAT4E2M1 without sign, in the order of their bits."""


@operator("Cast", "CastLike")
def cast(call: Call, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    """Convert to the type of the output."""
    target = call.output_type()
    if target is None:
        raise call.refused("the type of its output is not known")
    return converted(
        x,
        target,
        saturate=bool(call.integer("saturate", 1)),
        round_mode=call.text("round_mode", "up"),
    )


def converted(
    x: torch.Tensor, to: ir.DataType, *, saturate: bool = True, round_mode: str = "up"
) -> torch.Tensor:
    """Convert elements as ONNX's Cast does.

    Args:
        x: Elements of any type.
        to: The type of the result.
        saturate: Whether what is too large for a float8 becomes its largest number.
        round_mode: "up", "down" or "nearest", for powers of two (FLOAT8E8M0).

    Raises:
        GraphoptError: PyTorch has no such type.
    """
    dtype = torch_dtype(to)
    if to in _SIGNED_BITS or to in _UNSIGNED_BITS:
        return _few_bits(x, to).to(dtype)
    if to == ir.DataType.FLOAT4E2M1:
        return _float4(x.to(torch.float32))
    if to == ir.DataType.FLOAT8E8M0:
        return _power_of_two(x.to(torch.float32), saturate=saturate, round_mode=round_mode)
    if dtype in _FLOAT8:
        wide = x if x.is_floating_point() and x.dtype.itemsize > 1 else x.to(torch.float32)
        return _float8(wide, dtype, saturate=saturate)
    return x.to(dtype)


def _float8(x: torch.Tensor, dtype: torch.dtype, *, saturate: bool) -> torch.Tensor:
    largest = torch.finfo(dtype).max
    if saturate:
        x = x.clamp(-largest, largest)
    elif dtype == torch.float8_e4m3fn:
        # Versions of PyTorch differ in what becomes of numbers that round to more than 448.
        x = x.masked_fill(x.abs() > _FLOAT8_E4M3FN_LAST, torch.nan)
    return x.to(dtype)


def _few_bits(x: torch.Tensor, to: ir.DataType) -> torch.Tensor:
    """Keep the lowest bits; reals are rounded to the nearest integer, as ONNX Runtime does."""
    if x.is_floating_point():
        wide = x.to(torch.float32) if x.dtype.itemsize == 1 else x
        x = torch.trunc(wide + torch.copysign(torch.full_like(wide, 0.5), wide))
    bits = x.to(torch.int64)
    if to in _UNSIGNED_BITS:
        return torch.bitwise_and(bits, 2 ** _UNSIGNED_BITS[to] - 1)
    half = 1 << (_SIGNED_BITS[to] - 1)
    return torch.bitwise_and(bits + half, 2 * half - 1) - half


def _float4(x: torch.Tensor) -> torch.Tensor:
    """Round to the nearest number of FLOAT4E2M1, halves to even; too large ones to 6, NaN to 0."""
    size = x.abs().nan_to_num(nan=0.0).clamp(max=_FLOAT4[-1])
    # The distance of neighbours: a half below 2, one below 4, two up to 6.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def _power_of_two(x: torch.Tensor, *, saturate: bool, round_mode: str) -> torch.Tensor:
    """Round to powers of two, whose exponents a FLOAT8E8M0 holds."""
    bits = x.contiguous().view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    if round_mode == "up":
        up = fraction > 0
    elif round_mode == "nearest":
        # Halves go up, but for the numbers below the normal ones.
        up = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    else:
        up = torch.zeros_like(fraction, dtype=torch.bool)
    finite = exponent < 0xFF
    exponent = exponent + (up & finite)
    if saturate:
        exponent = torch.where(torch.isnan(x), 0xFF, exponent.clamp(max=0xFE))
    return exponent.to(torch.uint8).view(torch.float8_e8m0fnu)


@operator("BitCast")
def bit_cast(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Read the bits of each element as another type of as many."""
    source, target = call.input_type(0), call.output_type()
    if source is None or target is None:
        raise call.refused("the types of its input and output are not known")
    if source.bitwidth < 8:
        return _from_bits(_to_bits(x, source), target)
    dtype = torch_dtype(target)
    if torch.bool in (x.dtype, dtype):
        return x.to(dtype) if x.dtype == torch.bool else x.view(torch.uint8).to(dtype)
    return x.contiguous().view(dtype)


def _to_bits(x: torch.Tensor, source: ir.DataType) -> torch.Tensor:
    if source == ir.DataType.FLOAT4E2M1:
        table = torch.tensor(_FLOAT4, device=x.device)
        return torch.searchsorted(table, x.abs().contiguous()) + 8 * torch.signbit(x)
    return torch.bitwise_and(x.to(torch.int64), 2**source.bitwidth - 1)


def _from_bits(bits: torch.Tensor, target: ir.DataType) -> torch.Tensor:
    if target == ir.DataType.FLOAT4E2M1:
        table = torch.tensor((*_FLOAT4, *(-each for each in _FLOAT4)), device=bits.device)
        return table[bits]
    return _few_bits(bits, target).to(torch_dtype(target))
