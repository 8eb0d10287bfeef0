"""From real numbers to those of few bits, and back."""

from __future__ import annotations

import onnx_ir as ir
import torch

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.operators.casts import converted
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

_BOUNDS = {
    # Of types that are held in wider ones.
    ir.DataType.INT2: (-2, 1),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.UINT4: (0, 15),
}


@operator("QuantizeLinear")
def quantize_linear(
    call: Call,
    x: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """Divide by the scale, round to the nearest, ties to even, and add the zero point."""
    target = call.output_type() or ir.DataType.UINT8
    precise = _precision(call, y_scale)
    quotient = x.to(precise) / _spread(call, x, y_scale).to(precise)
    if not target.is_floating_point():
        quotient = torch.round(quotient)
    if y_zero_point is not None:
        quotient = quotient + _spread(call, x, y_zero_point).to(precise)
    if target.is_floating_point():
        return converted(quotient, target, saturate=call.integer("saturate", 1) == 1)
    return saturated(quotient, call, torch_dtype(target))


@operator("DequantizeLinear")
def dequantize_linear(
    call: Call,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """Take off the zero point, and multiply by the scale."""
    precise = _precision(call, x_scale)
    source = call.input_type(0)
    integer = source is None or not source.is_floating_point()
    wide = x.to(torch.int64 if integer else precise)
    if x_zero_point is not None:
        wide = wide - _spread(call, x, x_zero_point).to(wide.dtype)
    made = wide.to(precise) * _spread(call, x, x_scale).to(precise)
    target = call.output_type()
    return made.to(x_scale.dtype if target is None else torch_dtype(target))


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(
    call: Call, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize to uint8 with the scale and the zero point that the range of the input wants."""
    zero = x.new_zeros(())
    low = torch.minimum(x.min(), zero)
    high = torch.maximum(x.max(), zero)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round(torch.clamp(-low / scale, 0, 255))
    quantized = torch.clamp(torch.round(x / scale) + zero_point, 0, 255)
    return quantized.to(torch.uint8), scale, zero_point.to(torch.uint8)


def saturated(value: torch.Tensor, call: Call, dtype: torch.dtype) -> torch.Tensor:
    """Clamp whole numbers to what the output's integer type holds, and cast them to it."""
    target = call.output_type()
    info = torch.iinfo(dtype)
    low, high = _BOUNDS.get(target, (info.min, info.max)) if target else (info.min, info.max)
    return torch.clamp(value, low, high).to(dtype)


def _precision(call: Call, scale: torch.Tensor) -> torch.dtype:
    """Return the type that is computed in: float32 for narrower ones, as ONNX Runtime does."""
    wide = call.integer("precision", 0) == ir.DataType.DOUBLE or scale.dtype == torch.float64
    return torch.float64 if wide else torch.float32


def _spread(call: Call, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Let factors for the whole tensor, for an axis, or for blocks of an axis fit its elements."""
    if factors.ndim == 0 or (factors.ndim == 1 and x.ndim != 1 and factors.shape[0] == 1):
        return factors.reshape(())
    axis = axis_of(call.integer("axis", 1), x.ndim) if x.ndim > 1 else 0
    block = call.integer("block_size", 0)
    if block:
        # repeat_interleave and slicing do not know all types of few bits.
        positions = torch.arange(x.shape[axis], device=x.device) // block
        return _kernelled(factors).index_select(axis, positions)
    shape = [1] * x.ndim
    shape[axis] = -1
    return factors.reshape(shape)


def _kernelled(factors: torch.Tensor) -> torch.Tensor:
    """Return integers and small floats in a type that PyTorch moves elements of."""
    if factors.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return factors
    return factors.to(torch.float32 if factors.dtype.is_floating_point else torch.int64)
