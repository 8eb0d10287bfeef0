"""Steps of optimizers (`ai.onnx.preview.training`), of any number of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator

DOMAIN = "ai.onnx.preview.training"

Tensors = tuple[torch.Tensor, ...]


def _grouped(inputs: Sequence[torch.Tensor], states: int) -> list[Tensors]:
    """Return each tensor with its gradient and states, of which the inputs are lists in a row."""
    count = len(inputs) // (2 + states)
    return [tuple(inputs[index::count]) for index in range(count)]


def _outputs(updated: Sequence[Tensors]) -> Tensors:
    """Return all new tensors, then all new first states, and so on."""
    return tuple(tensor for kind in zip(*updated, strict=True) for tensor in kind)


def _regularized(call: Call, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return call.real("norm_coefficient", 0.0) * x + gradient


@operator("Adagrad", domain=DOMAIN)
def adagrad(call: Call, rate: torch.Tensor, step: torch.Tensor, *inputs: torch.Tensor) -> Tensors:
    """Divide gradients by the root of the sum of their squares so far."""
    rate = rate / (1 + step * call.real("decay_factor", 0.0))
    updated = []
    for x, gradient, before in _grouped(inputs, 1):
        direction = _regularized(call, x, gradient)
        squares = before + direction * direction
        scale = torch.sqrt(squares) + call.real("epsilon", 1e-6)
        updated.append((x - rate * direction / scale, squares))
    return _outputs(updated)


@operator("Adam", domain=DOMAIN)
def adam(call: Call, rate: torch.Tensor, step: torch.Tensor, *inputs: torch.Tensor) -> Tensors:
    """Divide averages of gradients by the root of those of their squares."""
    alpha, beta = call.real("alpha", 0.9), call.real("beta", 0.999)
    # The averages start at zero: this is what they lack.
    corrected = rate * torch.sqrt(1 - torch.pow(beta, step)) / (1 - torch.pow(alpha, step))
    rate = torch.where(step > 0, corrected, rate)
    updated = []
    for x, gradient, mean_before, squares_before in _grouped(inputs, 2):
        direction = _regularized(call, x, gradient)
        average = alpha * mean_before + (1 - alpha) * direction
        squares = beta * squares_before + (1 - beta) * direction * direction
        moved = x - rate * average / (torch.sqrt(squares) + call.real("epsilon", 1e-6))
        updated.append(((1 - call.real("norm_coefficient_post", 0.0)) * moved, average, squares))
    return _outputs(updated)


@operator("Momentum", domain=DOMAIN)
def momentum(call: Call, rate: torch.Tensor, step: torch.Tensor, *inputs: torch.Tensor) -> Tensors:
    """Move along decaying sums of gradients."""
    alpha = call.real("alpha")
    share = torch.where(step > 0, call.real("beta"), 1.0)
    updated = []
    for x, gradient, before in _grouped(inputs, 1):
        direction = _regularized(call, x, gradient)
        velocity = (alpha * before + share * direction).to(x.dtype)
        nesterov = call.text("mode") == "nesterov"
        step_along = direction + alpha * velocity if nesterov else velocity
        updated.append((x - rate * step_along, velocity))
    return _outputs(updated)
