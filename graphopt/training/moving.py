"""Elements that are moved, but not computed with.

PyTorch lacks kernels for some element types even where these only copy. Their bits are moved as
those of a type that has all of them.
"""

from __future__ import annotations

import torch

_MOVED_AS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}


def moved_as(dtype: torch.dtype) -> torch.dtype:
    """Return the type that elements of a type are moved as."""
    return _MOVED_AS.get(dtype, dtype)


def movable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same bits, in a type that PyTorch can index, join and repeat."""
    return moved(tensor, moved_as(tensor.dtype))


def moved(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what was made of `movable` tensors in the type that they had."""
    return tensor if tensor.dtype == dtype else tensor.view(dtype)
