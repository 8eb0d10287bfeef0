"""Sizes of tensors, which torch.export keeps as symbols where they are not fixed."""

from __future__ import annotations

from typing import Any

import torch

Size = Any
"""An integer, or a symbolic one."""


def larger(one: Size, other: Size) -> Size:
    """Return the larger of two sizes, without a decision where they are symbolic."""
    return torch.sym_max(one, other)  # type: ignore[no-untyped-call] # PyTorch has no types for it
