"""Normalization by mean and variance."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

_FLOAT = 1
"""ONNX's number of float32, which stash_type names the type of the statistics by."""


def _channels(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return parameter.reshape(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else parameter


@operator("BatchNormalization")
def batch_normalization(
    call: Call,
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
) -> Any:
    """Normalize each channel, by what is given or (training_mode) by what the batch has."""
    epsilon = call.real("epsilon", 1e-5)
    if not call.integer("training_mode", 0):
        return _batch_normalized(x, scale, bias, mean, variance, epsilon)
    wide = x.to(mean.dtype)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    current_mean = wide.mean(axes)
    current_variance = wide.var(axes, correction=0)
    kept = call.real("momentum", 0.9)
    running_mean = mean * kept + current_mean * (1 - kept)
    running_variance = variance * kept + current_variance * (1 - kept)
    y = _batch_normalized(x, scale, bias, current_mean, current_variance, epsilon)
    return y, running_mean, running_variance


def _batch_normalized(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    if x.dtype == scale.dtype == mean.dtype and x.ndim > 1 and not mean.requires_grad:
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    factor = scale.to(mean.dtype) / torch.sqrt(variance + epsilon)
    shift = bias.to(mean.dtype) - mean * factor
    return (x.to(mean.dtype) * _channels(factor, x) + _channels(shift, x)).to(x.dtype)


@operator("InstanceNormalization")
def instance_normalization(
    call: Call, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Normalize each channel of each element of the batch by itself."""
    return torch.group_norm(x, x.shape[1], scale, bias, call.real("epsilon", 1e-5))


def _stash(call: Call, x: torch.Tensor) -> torch.dtype:
    """Return the type that is computed in."""
    if call.integer("stash_type", _FLOAT) == _FLOAT and x.dtype != torch.float64:
        return torch.float32
    return x.dtype


@operator("GroupNormalization")
def group_normalization(
    call: Call, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Normalize groups of channels."""
    wide = _stash(call, x)
    made = torch.group_norm(
        x.to(wide),
        call.integer("num_groups"),
        scale.to(wide),
        bias.to(wide),
        call.real("epsilon", 1e-5),
    )
    return made.to(x.dtype)


@operator("LayerNormalization")
def layer_normalization(
    call: Call, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> Any:
    """Normalize over the axes from `axis` on; also return mean and inverse deviation."""
    wide = _stash(call, x)
    axis = axis_of(call.integer("axis", -1), x.ndim)
    normalized = list(x.shape[axis:])
    whole = list(scale.shape) == normalized and (bias is None or list(bias.shape) == normalized)
    factor = scale.to(wide)
    shift = None if bias is None else bias.to(wide)
    y, mean, inverse = torch.native_layer_norm(
        x.to(wide),
        normalized,
        factor if whole else None,
        shift if whole else None,
        call.real("epsilon", 1e-5),
    )
    if not whole:
        y = y * factor if shift is None else y * factor + shift
    stash = torch.float32 if call.integer("stash_type", _FLOAT) == _FLOAT else x.dtype
    return y.to(x.dtype), mean.to(stash), inverse.to(stash)


@operator("RMSNormalization")
def rms_normalization(call: Call, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Divide by the root of the mean square over the axes from `axis` on."""
    wide = x.to(_stash(call, x))
    axes = list(range(axis_of(call.integer("axis", -1), x.ndim), x.ndim))
    mean_square = (wide * wide).mean(axes, keepdim=True)
    normalized = wide / torch.sqrt(mean_square + call.real("epsilon", 1e-5))
    return (normalized * scale.to(wide.dtype)).to(x.dtype)


@operator("LRN")
def lrn(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Divide by what the squares of channels nearby sum up to."""
    size = call.integer("size")
    # Of an even size, the larger half is behind the channel; PyTorch's own has it before.
    begin = (size - 1) // 2
    around = [0, 0] * (x.ndim - 2) + [begin, size - 1 - begin]
    squares = functional.pad(x * x, around).unfold(1, size, 1).sum(-1)
    factor = call.real("alpha", 1e-4) / size
    return x / (call.real("bias", 1.0) + factor * squares) ** call.real("beta", 0.75)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Take off the mean, and divide by the standard deviation."""
    axes = [axis_of(axis, x.ndim) for axis in call.integers("axes", (0, 2, 3))]
    centred = x - x.mean(axes, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(axes, keepdim=True))
    return centred / (deviation + 1e-9)
