"""Unsigned integers of 16, 32 and 64 bits, which PyTorch holds and computes little with."""

from __future__ import annotations

from collections.abc import Callable

import torch

Function = Callable[..., torch.Tensor]

_WIDE = (torch.uint16, torch.uint32, torch.uint64)
_LOWEST = -(2**63)


def is_wide_unsigned(tensor: torch.Tensor) -> bool:
    """Whether a tensor's integers are unsigned and of more than 8 bits."""
    return tensor.dtype in _WIDE


def modular(function: Function, *tensors: torch.Tensor) -> torch.Tensor:
    """Compute what is exact modulo 2**64 in int64: sums, products, bits, selections.

    Args:
        function: Takes the tensors and returns one of the type of the first.
        *tensors: The first one's type says whether they are taken as int64.
    """
    first = tensors[0]
    if first.dtype not in _WIDE:
        return function(*tensors)
    return function(*(each.to(torch.int64) for each in tensors)).to(first.dtype)


def sortable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that PyTorch can compare: int64 in the same order for uint64."""
    if tensor.dtype not in _WIDE:
        return tensor
    signed = tensor.to(torch.int64)
    return signed ^ _LOWEST if tensor.dtype == torch.uint64 else signed


def unsorted(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the elements of type `dtype` whose `sortable` form a tensor holds."""
    if dtype not in _WIDE:
        return tensor
    return (tensor ^ _LOWEST if dtype == torch.uint64 else tensor).to(dtype)


def ordered(function: Function, *tensors: torch.Tensor) -> torch.Tensor:
    """Compute what only compares elements and returns some of them: the larger ones, sorted ones.

    Args:
        function: Takes the tensors and returns one of their type.
        *tensors: All of one type.
    """
    return unsorted(function(*(sortable(each) for each in tensors)), tensors[0].dtype)


def divided(dividend: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """Divide integers, of any type, towards zero."""
    if dividend.dtype != torch.uint64:
        return modular(lambda a, b: torch.div(a, b, rounding_mode="trunc"), dividend, divisor)
    a, b = dividend.to(torch.int64), divisor.to(torch.int64)
    # Half of the dividend is no negative int64; what halving lost is at most one divisor more.
    # A divisor that is negative as int64 is over half of all numbers, and goes in once or never.
    half = (a >> 1) & (2**63 - 1)
    estimate = torch.div(half, torch.where(b < 0, 1, b), rounding_mode="trunc") << 1
    estimate = torch.where(b < 0, 0, estimate)
    rest = a - estimate * b
    quotient: torch.Tensor = estimate + ((rest ^ _LOWEST) >= (b ^ _LOWEST))
    return quotient.to(torch.uint64)
