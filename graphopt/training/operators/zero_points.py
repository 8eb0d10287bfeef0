"""Quantized numbers counted from their zero points."""

from __future__ import annotations

import torch


def centred(numbers: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    """Take a zero point off whole numbers.

    Args:
        numbers: Of 8 bits or fewer.
        zero_point: Is broadcast to them; None: 0.

    Returns:
        The numbers in float64, which holds sums of their products exactly.
    """
    wide = numbers.to(torch.float64)
    return wide if zero_point is None else wide - zero_point.to(torch.float64)
