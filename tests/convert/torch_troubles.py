"""Networks that are refused or converted with a note, that the conversion tests name."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y.median(dim=1).values  # The tests look for this line.


class HalfBounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, -1, float("inf"))


class Length(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / len(x)


class Branch(nn.Module):
    """Its branch is one on values, which both sides of a conversion keep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if bool(y.sum() > 0):
            return y
        return y * 2


def median() -> tuple[nn.Module, Tensor]:
    return Median(), torch.ones(2, 4)


def half_bounded() -> tuple[nn.Module, Tensor]:
    return HalfBounded(), torch.ones(2, 4)


def length() -> tuple[nn.Module, Tensor]:
    return Length(), torch.ones(2, 4)


def double() -> tuple[nn.Module, Tensor]:
    return nn.Conv1d(2, 3, 2, dtype=torch.float64), torch.ones(2, 2, 5, dtype=torch.float64)


def brain_float() -> tuple[nn.Module, Tensor]:
    return nn.Conv1d(2, 3, 2, dtype=torch.bfloat16), torch.ones(2, 2, 5, dtype=torch.bfloat16)


def in_training() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train(), torch.ones(2, 4)


def in_evaluation() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout()).eval(), torch.ones(2, 4)


class Counting(nn.Module):
    """Returns numbers, sizes and a name beside its tensors."""

    def forward(self, x: Tensor) -> dict[str, object]:
        rows = x.shape[0]
        return {
            "sum": x + x,
            "nothing": None,
            "rows": rows,
            "half": rows / 2,
            "inner": [x * 3, 7],
            "name": "counting",
            "cut": rows > 2,
        }


class OfNoTensor(nn.Module):
    def forward(self, x: Tensor) -> int:
        return x.shape[1]


def counting() -> tuple[nn.Module, Tensor]:
    return Counting(), torch.ones(3, 4)


def of_no_tensor() -> tuple[nn.Module, Tensor]:
    return OfNoTensor(), torch.ones(3, 4)


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y if y.sum() > 0 else -y  # The tests look for this branch.


class Translating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.layers(source, target, tgt_mask=mask)


def deciding() -> tuple[nn.Module, Tensor]:
    return Deciding(), torch.ones(2, 4)


def translating() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return Translating(), (torch.randn(2, 5, 8), torch.randn(2, 3, 8))


class Capitals(nn.Module):
    def forward(self, X: Tensor, Mask: Tensor) -> Tensor:  # noqa: N803  # its names are the test
        return X * Mask


def capitals() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return Capitals(), (torch.randn(2, 4), torch.ones(2, 4))
