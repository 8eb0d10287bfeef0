"""Operators of com.microsoft from quantized tensors to quantized tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.activations import LEAKY_RELU_ALPHA
from graphopt.training.operators.matrix import transposed_operands
from graphopt.training.operators.pooling import average_pool
from graphopt.training.operators.quantization import (
    dequantize_linear,
    quantize_linear,
    saturated,
)
from graphopt.training.operators.registry import MICROSOFT, operator
from graphopt.training.operators.shapes import axis_of
from graphopt.training.operators.zero_points import centred

operator("QuantizeLinear", domain=MICROSOFT)(quantize_linear)
operator("DequantizeLinear", domain=MICROSOFT)(dequantize_linear)


def _real(x: torch.Tensor, scale: torch.Tensor, point: torch.Tensor | None) -> torch.Tensor:
    wide = x.to(torch.float32)
    return (wide if point is None else wide - point.to(torch.float32)) * scale


def _requantized(
    call: Call, x: torch.Tensor, scale: torch.Tensor, point: torch.Tensor | None
) -> torch.Tensor:
    found = torch.round(x / scale)
    if point is not None:
        found = found + point.to(torch.float32)
    return saturated(found, call, call.output_dtype())


@operator("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_arithmetic(
    call: Call,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_point: torch.Tensor | None,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_point: torch.Tensor | None,
    scale: torch.Tensor,
    point: torch.Tensor | None = None,
) -> Any:
    """Add or multiply."""
    left, right = _real(a, a_scale, a_point), _real(b, b_scale, b_point)
    found = left + right if call.node.op_type == "QLinearAdd" else left * right
    return _requantized(call, found, scale, point)


@operator("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MICROSOFT)
def quantized_activation(
    call: Call,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_point: torch.Tensor | None,
    scale: torch.Tensor,
    point: torch.Tensor | None = None,
) -> Any:
    """Apply an activation."""
    real = _real(x, x_scale, x_point)
    if call.node.op_type == "QLinearSigmoid":
        found = torch.sigmoid(real)
    elif call.node.op_type == "QLinearLeakyRelu":
        found = functional.leaky_relu(real, call.real("alpha", LEAKY_RELU_ALPHA))
    else:
        axis = axis_of(call.integer("axis", -1), max(x.ndim, 1))
        if call.integer("opset", 13) >= 13:
            found = torch.softmax(real, axis)
        else:
            # It is taken over all axes from there on.
            found = torch.softmax(real.flatten(axis), -1).reshape(x.shape)
    return _requantized(call, found, scale, point)


@operator("QLinearConcat", domain=MICROSOFT)
def quantized_concat(
    call: Call, scale: torch.Tensor, point: torch.Tensor, *inputs: torch.Tensor
) -> Any:
    """Join tensors."""
    triples = zip(inputs[0::3], inputs[1::3], inputs[2::3], strict=True)
    parts = [_real(*each) for each in triples]
    return _requantized(
        call,
        torch.cat(parts, axis_of(call.integer("axis"), max(each.ndim for each in parts))),
        scale,
        point,
    )


@operator("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def quantized_average_pool(
    call: Call,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_point: torch.Tensor | None,
    scale: torch.Tensor,
    point: torch.Tensor | None = None,
) -> Any:
    """Return the mean of each window, or of each channel."""
    last = call.integer("channels_last", 0) == 1
    real = _real(x, x_scale, x_point)
    real = real.movedim(-1, 1) if last else real
    if call.node.op_type == "QLinearAveragePool":
        found = average_pool(call, real)
    else:
        found = real.mean(list(range(2, x.ndim)), keepdim=True)
    return _requantized(call, found.movedim(1, -1) if last else found, scale, point)


@operator("QGemm", domain=MICROSOFT)
def quantized_gemm(
    call: Call,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_point: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_point: torch.Tensor,
    c: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    point: torch.Tensor | None = None,
) -> Any:
    """Multiply matrices and add whole numbers; the result is real if it has no scale."""
    left, right = transposed_operands(call, a, b)
    whole = torch.matmul(centred(left, a_point), centred(right, b_point))
    if c is not None:
        whole = whole + c.to(torch.float64)
    found = whole.to(torch.float32) * (call.real("alpha", 1.0) * a_scale * b_scale)
    return found if scale is None else _requantized(call, found, scale, point)
