"""The rotation of pairs of features, which rotary embeddings tell positions by."""

from __future__ import annotations

import torch


def rotated(
    x: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    count: int,
    *,
    interleaved: bool,
) -> torch.Tensor:
    """Rotate pairs of features.

    Args:
        x: (batch, heads, length, size).
        cosines: Of the angles, (batch, length, count / 2).
        sines: Beside them.
        count: How many features have a partner; those behind them stay.
        interleaved: Whether the features of a pair are next to each other.
    """
    turning, kept = x[..., :count], x[..., count:]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = turning.chunk(2, -1)
    ahead, beside = first * cosines - second * sines, first * sines + second * cosines
    if interleaved:
        turned = torch.stack([ahead, beside], -1).flatten(-2)
    else:
        turned = torch.cat([ahead, beside], -1)
    return torch.cat([turned, kept], -1)
