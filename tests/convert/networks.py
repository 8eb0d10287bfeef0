"""Networks that the conversion tests name as `networks:...`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(6, 8)
        self.normalize = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.normalize(self.hidden(features)))))


class Masked(nn.Module):
    """Two inputs with a dynamic sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(tokens)
        y, _ = self.attend(x, x, x, key_padding_mask=mask, need_weights=False)
        return {"states": y, "length": (~mask).sum(dim=1)}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 6, batch_first=True, bidirectional=True)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        y, (hidden, _) = self.lstm(steps)
        return y, hidden


class Attending(nn.Module):
    """Attention with a bias by distance, whose heads are joined by a view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(16, 48)
        self.distance = nn.Embedding(8, 4)

    def forward(self, steps: Tensor) -> Tensor:
        batch, length, width = steps.shape
        heads = (
            part.view(batch, length, 4, 4).transpose(1, 2)
            for part in self.project(steps).chunk(3, dim=-1)
        )
        place = torch.arange(length)
        bias = self.distance(place[None] - place[:, None] + 4).permute(2, 0, 1)
        bias = bias.expand(batch, -1, -1, -1)
        attended = nn.functional.scaled_dot_product_attention(*heads, attn_mask=bias)
        return attended.transpose(1, 2).reshape(batch, length, width)


class Tied(nn.Module):
    """Words in and words out by the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.words(tokens))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.positive = nn.Linear(4, 4)
        self.negative = nn.Linear(4, 4)

    def forward(self, x: Tensor, switch: Tensor) -> Tensor:
        return torch.cond(
            switch.sum() > 0,
            self.positive,
            lambda v: torch.tanh(self.negative(v)),
            (x,),
        )


class FixedBatch(nn.Module):
    """Its batch is written into the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1) * 2


class Mixing(nn.Module):
    """Its samples see each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class SmallBatch(nn.Module):
    """Another network for large batches."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] < 8 else x * 3


class Nested(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor, offset: float = 1.0) -> Tensor:
        return pair[0] @ pair[1] * scale + offset


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 2, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


class Noisy(nn.Module):
    """What no exporter can prove: another result each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Chatty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("hello from the network")
        return x + 1


def mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Mlp().eval(), (torch.randn(3, 6, generator=torch.Generator().manual_seed(1)),)


def mlp_alone() -> nn.Module:
    return Mlp()


def mlp_of_one() -> tuple[nn.Module, Tensor]:
    return Mlp(), torch.ones(1, 6)


def masked() -> tuple[nn.Module, tuple[Tensor, ...]]:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    return Masked(), (torch.arange(10).reshape(2, 5), mask)


def recurrent() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Recurrent(), (torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)),)


def attending() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Attending(), (torch.ones(2, 4, 16),)


def tied() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Tied(), (torch.zeros(2, 2, dtype=torch.int64),)


def branching() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Branching(), (torch.ones(2, 4), torch.ones(1))


def fixed_batch() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return FixedBatch(), (torch.arange(10.0).reshape(2, 5),)


def mixing() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Mixing(), (torch.arange(10.0).reshape(2, 5) ** 2,)


def small_batch() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return SmallBatch(), (torch.arange(10.0).reshape(2, 5),)


def nested() -> tuple[nn.Module, tuple[object, ...], dict[str, object]]:
    return Nested(), ((torch.ones(2, 3), torch.ones(3, 4)),), {"scale": torch.tensor(2.0)}


def half() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Half(), (torch.ones(2, 4, dtype=torch.float16),)


def noisy() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Noisy(), (torch.ones(2, 4),)


def chatty() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Chatty(), (torch.ones(2, 4),)


def number() -> int:
    return 3


def broken() -> nn.Module:
    raise ValueError("no weights here")


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log(x), x + 1


def logarithm_of_negatives() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Logarithm(), (-torch.ones(2, 3),)
