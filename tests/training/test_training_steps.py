"""Steps of optimizers in PyTorch, against PyTorch's own optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from against_onnx_runtime import model_of
from held_constants import OPSET, module

DOMAIN = "ai.onnx.preview.training"
STATES = {"Adagrad": 1, "Adam": 2, "Momentum": 1}


def stepper(name: str, attributes: str) -> Any:
    groups = ["x", "g", "s", "h"][: 2 + STATES[name]]
    inputs = [f"{group}{index}" for group in groups for index in (1, 2)]
    outputs = [f"{each}_new" for each in inputs if each[0] != "g"]
    declared = ", ".join(f"double[N{each[1]}] {each}" for each in inputs)
    made = ", ".join(f"double[N{each[1]}] {each}" for each in outputs)
    node = f"{DOMAIN}.{name}<{attributes}>(r, t, {', '.join(inputs)})"
    graph = f"g (double r, int64 t, {declared}) => ({made}) {{ {', '.join(outputs)} = {node} }}"
    return module(model_of(graph, OPSET, f', "{DOMAIN}": 1'))


RATE = torch.tensor(0.1, dtype=torch.float64)
DECAYED = "norm_coefficient=0.25"
CASES = [
    ("Adagrad", "epsilon=0.125", torch.optim.Adagrad, {"eps": 0.125}),
    (
        "Adagrad",
        f"epsilon=0.125, decay_factor=0.5, {DECAYED}",
        torch.optim.Adagrad,
        {"eps": 0.125, "lr_decay": 0.5, "weight_decay": 0.25},
    ),
    # PyTorch corrects the root of the squares before it adds epsilon, ONNX behind that.
    (
        "Adam",
        f"alpha=0.5, beta=0.75, epsilon=0.0, {DECAYED}",
        torch.optim.Adam,
        {"betas": (0.5, 0.75), "eps": 0, "weight_decay": 0.25},
    ),
    (
        "Momentum",
        f'alpha=0.5, beta=1.0, {DECAYED}, mode="standard"',
        torch.optim.SGD,
        {"momentum": 0.5, "weight_decay": 0.25},
    ),
    (
        "Momentum",
        f'alpha=0.5, beta=0.75, {DECAYED}, mode="standard"',
        torch.optim.SGD,
        {"momentum": 0.5, "dampening": 0.25, "weight_decay": 0.25},
    ),
    (
        "Momentum",
        'alpha=0.5, beta=1.0, norm_coefficient=0.0, mode="nesterov"',
        torch.optim.SGD,
        {"momentum": 0.5, "nesterov": True},
    ),
]


@pytest.mark.parametrize(("name", "attributes", "optimizer", "options"), CASES)
def test_steps(name: str, attributes: str, optimizer: Any, options: Any) -> None:
    step = stepper(name, attributes)
    torch.manual_seed(10)
    own = [torch.randn(size, dtype=torch.float64) for size in (3, 2)]
    theirs = [torch.nn.Parameter(each.clone()) for each in own]
    by_them = optimizer(theirs, lr=RATE.item(), **options)
    states = [torch.zeros_like(each) for _ in range(STATES[name]) for each in own]
    # Adam counts from 1: at 0 it corrects nothing.
    first = 1 if name == "Adam" else 0
    for count in range(first, first + 4):
        gradients = [torch.randn_like(each) for each in own]
        updated = step(RATE, torch.tensor(count), *own, *gradients, *states)
        own, states = list(updated[:2]), list(updated[2:])
        for each, gradient in zip(theirs, gradients, strict=True):
            each.grad = gradient
        by_them.step()
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other.detach())
