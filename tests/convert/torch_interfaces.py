"""Networks with awkward inputs and outputs, that the conversion tests name."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    mean: Tensor
    spread: Tensor


class Keyed(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"sum": x + 1, "parts": (x * 2, [x > 0]), "none": None}


class Fields(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x.mean(dim=1), x.std(dim=1))


class KeyedAsInput(nn.Module):
    """A key that an input has, and one value under two keys."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = x * 2
        return {"x": y, "again": y}


class Returning(nn.Module):
    """It returns its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 2


class Unused(nn.Module):
    def forward(self, unused: Tensor, x: Tensor, table: Tensor) -> Tensor:
        return x + 1


def keyed() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Keyed(), (torch.arange(8.0).reshape(2, 4),)


def fields() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Fields(), (torch.arange(8.0).reshape(2, 4),)


def keyed_as_input() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return KeyedAsInput(), (torch.arange(8.0).reshape(2, 4),)


def returning() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Returning(), (torch.arange(8.0).reshape(2, 4),)


def unused() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Unused(), (torch.ones(2, 3), torch.ones(2, 4), torch.ones(7, 4))
