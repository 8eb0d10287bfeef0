"""Networks of LSTM and GRU layers, that the conversion tests name."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Steps(nn.Module):
    """Layers one after the other, each with the states that it ends in."""

    def __init__(self, *layers: nn.RNNBase) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, steps: Tensor) -> tuple[object, ...]:
        ends = []
        for layer in self.layers:
            steps, end = layer(steps)
            ends.append(end)
        return steps, ends


def batch_first() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True)
    return Steps(lstm, nn.GRU(12, 3, batch_first=True, bias=False)), torch.randn(2, 5, 4)


def time_first() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Steps(nn.GRU(4, 6, bidirectional=True), nn.LSTM(12, 3)), torch.randn(5, 2, 4)


def projected() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True, proj_size=3)
    return Steps(lstm), torch.randn(2, 5, 4)
