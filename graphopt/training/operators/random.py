"""Random numbers.

They come from PyTorch's generator, which `torch.manual_seed` sets; the seeds that nodes name belong
to the generators of another runtime, and would repeat the same numbers in each run here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value
from graphopt.training.operators.registry import operator


def _normal(call: Call, shape: Sequence[int], device: torch.device | None) -> torch.Tensor:
    drawn = torch.randn(list(shape), dtype=call.output_dtype(), device=device)
    return drawn * call.real("scale", 1.0) + call.real("mean", 0.0)


def _uniform(call: Call, shape: Sequence[int], device: torch.device | None) -> torch.Tensor:
    low, high = call.real("low", 0.0), call.real("high", 1.0)
    drawn = torch.rand(list(shape), dtype=call.output_dtype(), device=device)
    return drawn * (high - low) + low


@operator("RandomNormal")
def random_normal(call: Call) -> torch.Tensor:
    """Draw from a normal distribution."""
    return _normal(call, call.integers("shape"), call.device)


@operator("RandomNormalLike")
def random_normal_like(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Draw as many numbers of a normal distribution as the input has."""
    return _normal(call, x.shape, x.device)


@operator("RandomUniform")
def random_uniform(call: Call) -> torch.Tensor:
    """Draw from a uniform distribution."""
    return _uniform(call, call.integers("shape"), call.device)


@operator("RandomUniformLike")
def random_uniform_like(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Draw as many numbers of a uniform distribution as the input has."""
    return _uniform(call, x.shape, x.device)


@operator("Multinomial")
def multinomial(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Draw classes, whose unnormalized log-probabilities are `(batch, classes)`."""
    drawn = torch.multinomial(
        torch.softmax(x, -1), call.integer("sample_size", 1), replacement=True
    )
    return drawn.to(call.output_dtype())


@operator("Bernoulli")
def bernoulli(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Draw 1 with the probability that each element is, else 0."""
    return torch.bernoulli(x).to(call.output_dtype())


@operator("Dropout", numbers=(1, 2))
def dropout(
    call: Call, x: torch.Tensor, ratio: Value = None, training_mode: Value = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero a share of the elements and scale the others, where `training_mode` is true.

    Returns:
        The result, and which elements are kept.
    """
    share = _number(ratio, 0.5)
    training = _number(training_mode, False)
    if not isinstance(training, torch.Tensor) and not training:
        return x, torch.ones_like(x, dtype=torch.bool)
    kept = torch.rand(x.shape, device=x.device) >= share
    if isinstance(training, torch.Tensor):
        kept = kept | ~training
        scale = torch.where(training, 1 / (1 - share), 1.0).to(x.dtype)
        return torch.where(kept, x * scale, 0), kept
    return torch.where(kept, x * (1 / (1 - share)), 0).to(x.dtype), kept


def _number(value: Value, default: float) -> float | torch.Tensor:
    """Return a number as one of Python where it is known, as a tensor of no dimensions else."""
    if isinstance(value, Numbers):
        number: float = value.array.reshape(-1).tolist()[0]
        return number
    return default if value is None else value.reshape(())
