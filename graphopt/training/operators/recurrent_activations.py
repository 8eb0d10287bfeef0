"""The activations that recurrent layers name in their attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.activations import (
    HARD_SIGMOID_FACTORS,
    LEAKY_RELU_ALPHA,
    clamped_line,
)

Activation = Callable[[torch.Tensor], torch.Tensor]

_PLAIN: dict[str, Activation] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
}


def _affine(alpha: float, beta: float) -> Activation:
    return lambda x: alpha * x + beta


def _elu(alpha: float, _: float) -> Activation:
    return lambda x: functional.elu(x, alpha)


def _hard_sigmoid(alpha: float, beta: float) -> Activation:
    return lambda x: clamped_line(x, alpha, beta)


def _leaky_relu(alpha: float, _: float) -> Activation:
    return lambda x: functional.leaky_relu(x, alpha)


def _scaled_tanh(alpha: float, beta: float) -> Activation:
    return lambda x: alpha * torch.tanh(beta * x)


def _thresholded_relu(alpha: float, _: float) -> Activation:
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


_WITH_FACTORS: dict[
    str, tuple[Callable[[float, float], Activation], float | None, float | None]
] = {
    # What makes it, and the alpha and beta that ONNX Runtime takes where nothing gives them;
    # None: it has none.
    "affine": (_affine, 0.0, 0.0),
    "elu": (_elu, 1.0, None),
    "hardsigmoid": (_hard_sigmoid, *HARD_SIGMOID_FACTORS),
    "leakyrelu": (_leaky_relu, LEAKY_RELU_ALPHA, None),
    "scaledtanh": (_scaled_tanh, 0.0, 0.0),
    "thresholdedrelu": (_thresholded_relu, 0.0, None),
}


def activations(call: Call, default: Sequence[str], directions: int) -> list[list[Activation]]:
    """Return the activations of each direction of a layer.

    Args:
        call: Has the attributes activations, activation_alpha and activation_beta; each activation
            that has an alpha (a beta) takes the next one.
        default: What one direction has where the attribute is missing.
        directions: How many there are.

    Raises:
        GraphoptError: One is unknown, or they are too few.
    """
    each = len(default)
    names = call.texts("activations", list(default) * directions)
    if len(names) == each:
        names *= directions
    if len(names) < each * directions:
        raise call.refused(f"it names {len(names)} activations, and needs {each * directions}")
    alphas = iter(call.reals("activation_alpha", ()))
    betas = iter(call.reals("activation_beta", ()))
    found = [_activation(call, name, alphas, betas) for name in names]
    return [found[start : start + each] for start in range(0, each * directions, each)]


def _activation(
    call: Call, name: str, alphas: Iterator[float], betas: Iterator[float]
) -> Activation:
    plain = _PLAIN.get(name.lower())
    if plain is not None:
        return plain
    entry = _WITH_FACTORS.get(name.lower())
    if entry is None:
        raise call.refused(f"the activation {name} is unknown")
    make, alpha, beta = entry
    return make(
        0.0 if alpha is None else next(alphas, alpha), 0.0 if beta is None else next(betas, beta)
    )
