from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from one_node import Inputs, check, check_export, check_gradients

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
FUNCTIONS = {"GRU": 2, "LSTM": 3, "RNN": 1}
PLAIN = ["Relu", "Sigmoid", "Softsign", "Tanh"]
FACTORS = {"Affine": 2, "Elu": 1, "HardSigmoid": 2, "LeakyRelu": 1, "ThresholdedRelu": 1}


def layer(
    operator: str, seed: int, *, lengths: bool = False, peepholes: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    draw = Random(seed)
    numbers = np.random.default_rng(seed)
    steps, batch, size, hidden = 4, 3, draw.randint(1, 4), draw.randint(1, 4)
    direction = ["forward", "reverse", "bidirectional"][seed % 3]
    directions = 2 if direction == "bidirectional" else 1
    gates = GATES[operator] * hidden

    def normal(*shape: int) -> Any:
        return (numbers.standard_normal(shape) * 0.7).astype(np.float32)

    arrays: list[Any] = [
        normal(steps, batch, size),
        normal(directions, gates, size),
        normal(directions, gates, hidden),
        normal(directions, 2 * gates) if draw.random() < 0.7 else None,
        np.array([2, 0, 4], np.int32) if lengths else None,
        normal(directions, batch, hidden) if draw.random() < 0.6 else None,
    ]
    if operator == "LSTM":
        arrays.append(normal(directions, batch, hidden) if draw.random() < 0.6 else None)
        if peepholes:
            arrays.append(normal(directions, 3 * hidden))
    return arrays, {"direction": direction, "hidden_size": hidden}


def drawn_activations(operator: str, seed: int, directions: int) -> dict[str, Any]:
    """Draw activations with all the factors that they take."""
    draw = Random(seed)
    count = FUNCTIONS[operator] * directions
    names = [draw.choice([*PLAIN, *FACTORS]) for _ in range(count)]
    alphas = [draw.uniform(0.1, 1) for name in names if FACTORS.get(name, 0) > 0]
    betas = [draw.uniform(0.1, 1) for name in names if FACTORS.get(name, 0) > 1]
    found: dict[str, Any] = {"activations": names}
    if alphas:
        found["activation_alpha"] = alphas
    if betas:
        found["activation_beta"] = betas
    return found


def outputs(operator: str, seed: int) -> int:
    """Return a number of outputs: an LSTM without the cell's state runs fused with lengths too."""
    return 2 + seed % 2 if operator == "LSTM" else 2


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("operator", GATES)
def test_layers(operator: str, seed: int, *, lengths: bool) -> None:
    arrays, attributes = layer(operator, seed, lengths=lengths)
    if operator == "GRU":
        attributes["linear_before_reset"] = seed // 3
    check(operator, arrays, outputs(operator, seed), opset=14, **attributes)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("operator", GATES)
def test_layers_with_other_activations(operator: str, seed: int, *, lengths: bool) -> None:
    arrays, attributes = layer(operator, seed, lengths=lengths, peepholes=seed > 2)
    attributes.update(drawn_activations(operator, seed, arrays[1].shape[0]))
    attributes["clip"] = 0.8
    if operator == "LSTM":
        attributes["input_forget"] = seed % 2
    check(operator, arrays, outputs(operator, seed), opset=14, atol=2e-5, **attributes)


@pytest.mark.parametrize("name", ["Affine", "Elu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu"])
def test_factors_that_activations_have_by_default(name: str) -> None:
    arrays, attributes = layer("RNN", 0)
    check("RNN", arrays, 2, opset=14, activations=[name], **attributes)


@pytest.mark.parametrize("operator", GATES)
def test_gradients_of_the_loop(operator: str) -> None:
    arrays, attributes = layer(operator, 2, lengths=True, peepholes=True)
    # Nothing is differentiable where it is clipped: no sum is near that.
    attributes["clip"] = 50.0
    check_gradients(operator, arrays, 2, opset=14, **attributes)


@pytest.mark.parametrize("operator", GATES)
def test_gradients_of_what_is_fused(operator: str) -> None:
    arrays, attributes = layer(operator, 2, lengths=True)
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    check_gradients(operator, arrays, 2, opset=14, **attributes)


@pytest.mark.parametrize("clip", [0.0, 0.8])
@pytest.mark.parametrize("operator", GATES)
def test_export_with_a_dynamic_batch(operator: str, clip: float) -> None:
    arrays, attributes = layer(operator, 2)
    states: Inputs = [np.repeat(arrays[0], 2, 1), *arrays[1:4]]
    check_export(operator, states, (1,), 2, opset=14, clip=clip, **attributes)
