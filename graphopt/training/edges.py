"""What is added to tensors at their edges, or taken away there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from graphopt.training.sizes import Size


def padded(
    tensor: torch.Tensor, begin: Sequence[Size], end: Sequence[Size], value: float = 0
) -> torch.Tensor:
    """Pad the last axes of a tensor; negative amounts cut off.

    Args:
        tensor: What is padded.
        begin: Amounts before each of the axes, in their order.
        end: Amounts behind them.
        value: What the padding is filled with.
    """
    if all(isinstance(each, int) and each == 0 for each in (*begin, *end)):
        return tensor
    # PyTorch counts from the last axis.
    pairs = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
    return functional.pad(tensor, pairs, value=value)
