"""The heads of attention as an axis of their own."""

from __future__ import annotations

import torch


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split (batch, length, heads * size) into (batch, heads, length, size)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(1, 2)


def joined_heads(x: torch.Tensor) -> torch.Tensor:
    """Join (batch, heads, length, size) into (batch, length, heads * size)."""
    return x.transpose(1, 2).flatten(2)
