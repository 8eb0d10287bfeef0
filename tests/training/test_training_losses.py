"""Losses in PyTorch, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import Array, compare, model_of
from held_constants import OPSET, module

SHAPES = [(6, 4), (2, 4, 3), (2, 4, 3, 5)]


def loss(name: str, dtype: str, rank: int, attributes: str, weighted: bool) -> ir.Model:
    dims = ["N", "C", "D", "E"][:rank]
    labels = ", ".join(dims[:1] + dims[2:])
    weight, used = (f", {dtype}[C] w", ", w") if weighted else ("", "")
    output = "y, p" if name.startswith("Softmax") else "y"
    declared = ", ".join(f"{dtype} {each}" for each in output.split(", "))
    model = model_of(
        f"g ({dtype}[{', '.join(dims)}] x, int64[{labels}] t{weight}) => ({declared})"
        f" {{ {output} = {name}<{attributes}>(x, t{used}) }}",
        OPSET,
    )
    for each in model.graph.outputs:
        each.shape = None
    return model


def samples(shape: tuple[int, ...], ignored: bool) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(7)
    labels = generator.integers(0, shape[1], (shape[0], *shape[2:]))
    if ignored:
        labels[0] = 2
    return generator.normal(size=shape) * 3, labels, generator.uniform(0.1, 2, shape[1])


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_a_loss(
    name: str, shape: tuple[int, ...], reduction: str, weighted: bool, ignored: bool
) -> None:
    attributes = f'reduction="{reduction}"' + (", ignore_index=2" if ignored else "")
    model = loss(name, "float", len(shape), attributes, weighted)
    scores, labels, weights = samples(shape, ignored)
    arrays = [scores.astype(np.float32), labels]
    compare(
        model, *arrays, *([weights.astype(np.float32)] if weighted else []), rtol=1e-5, atol=1e-6
    )


def test_the_mean_of_half_precision() -> None:
    scores, labels, weights = samples((50, 4), ignored=False)
    halves = [torch.from_numpy(each).to(torch.float16) for each in (scores, weights)]
    found, log_prob = module(
        loss("SoftmaxCrossEntropyLoss", "float16", 2, 'reduction="mean"', True)
    )(halves[0], torch.from_numpy(labels), halves[1])
    assert found.dtype == log_prob.dtype == torch.float16
    wanted = torch.nn.functional.cross_entropy(
        torch.from_numpy(scores), torch.from_numpy(labels), torch.from_numpy(weights)
    )
    assert found.item() == pytest.approx(wanted.item(), rel=4e-3)


@pytest.mark.parametrize("name", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_gradients(name: str) -> None:
    scores, labels, _ = samples((6, 4), ignored=True)
    own = module(loss(name, "double", 2, "ignore_index=2", weighted=False))
    x = torch.from_numpy(scores).requires_grad_()
    targets = torch.from_numpy(labels)
    assert torch.autograd.gradcheck(lambda each: own(each, targets), (x,))
