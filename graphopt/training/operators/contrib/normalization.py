"""Normalizations of ONNX Runtime that ONNX does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.registry import MICROSOFT, ONNX, operator
from graphopt.training.operators.shapes import axis_of


@operator("SimplifiedLayerNormalization", domain=ONNX)
def simplified_layer_normalization(call: Call, x: torch.Tensor, scale: torch.Tensor) -> Any:
    """Divide by the root of the mean square."""
    axis = call.integer("axis", -1)
    axes = list(range(axis_of(axis, x.ndim), x.ndim))
    inverse = inverse_root_mean_square(x, axes, call.real("epsilon", 1e-5))
    return (x.to(inverse.dtype) * inverse).to(scale.dtype) * scale, inverse


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    call: Call,
    x: torch.Tensor,
    skip: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> Any:
    """Add, and divide by the root of the mean square."""
    total = x + skip if bias is None else x + skip + bias
    inverse = inverse_root_mean_square(total, [-1], call.real("epsilon", 1e-12))
    return (total.to(inverse.dtype) * inverse).to(x.dtype) * scale, None, None, total


def inverse_root_mean_square(x: torch.Tensor, axes: list[int], epsilon: float) -> torch.Tensor:
    """Return what to multiply by, in float32 or float64."""
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    return torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    call: Call,
    x: torch.Tensor,
    skip: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Any:
    """Add, and normalize the last axis."""
    total = x + skip if bias is None else x + skip + bias
    return _layer_normalized(call, total, scale, shift), None, None, total


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    call: Call,
    words: torch.Tensor,
    segments: torch.Tensor | None,
    word_table: torch.Tensor,
    position_table: torch.Tensor,
    segment_table: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> Any:
    """Add what tables hold of words, positions and segments, and normalize it."""
    if positions is None:
        position = position_table[: words.shape[1]]
    else:
        position = functional.embedding(positions, position_table)
    total = functional.embedding(words, word_table) + position
    if segments is not None and segment_table is not None:
        total = total + functional.embedding(segments, segment_table)
    if mask is None:
        counts = torch.zeros_like(words[:, 0], dtype=torch.int32)
    else:
        counts = (mask == 1).sum(1).to(torch.int32)
    return _layer_normalized(call, total, scale, shift), counts, total


def _layer_normalized(
    call: Call, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None
) -> torch.Tensor:
    epsilon = call.real("epsilon", 1e-12)
    return functional.layer_norm(x, (x.shape[-1],), scale, shift, epsilon)
