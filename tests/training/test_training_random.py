"""Random numbers in PyTorch: their distribution, type and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, model_of
from held_constants import OPSET, module

COUNT = 40_000
FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64}


def drawn(graph: str, *inputs: Any) -> Any:
    torch.manual_seed(8)
    return module(model_of(graph, OPSET))(*inputs)


@pytest.mark.parametrize("number", FLOATS)
@pytest.mark.parametrize("like", [False, True])
def test_a_normal_distribution(like: bool, number: int) -> None:
    name = {1: "float", 10: "float16", 11: "double"}[number]
    attributes = f"dtype={number}, mean=3.0, scale=2.0"
    if like:
        graph = f"g (int32[N] x) => ({name}[N] y) {{ y = RandomNormalLike<{attributes}>(x) }}"
        found = drawn(graph, torch.zeros(COUNT, dtype=torch.int32))
    else:
        attributes += f", shape=[{COUNT}]"
        found = drawn(f"g () => ({name}[N] y) {{ y = RandomNormal<{attributes}>() }}")
    assert found.dtype == FLOATS[number]
    wide = found.double()
    assert tuple(wide.shape) == (COUNT,)
    # Within five standard errors.
    assert wide.mean().item() == pytest.approx(3, abs=5 * 2 / COUNT**0.5)
    assert wide.std().item() == pytest.approx(2, abs=5 * 2 / (2 * COUNT) ** 0.5)


@pytest.mark.parametrize("like", [False, True])
def test_a_uniform_distribution(like: bool) -> None:
    if like:
        graph = "g (float[N] x) => (float[N] y) { y = RandomUniformLike<low=-2.0, high=4.0>(x) }"
        found = drawn(graph, torch.zeros(COUNT))
    else:
        attributes = f"low=-2.0, high=4.0, shape=[{COUNT}]"
        found = drawn(f"g () => (float[N] y) {{ y = RandomUniform<{attributes}>() }}")
    assert found.min() >= -2
    assert found.max() <= 4
    assert found.mean().item() == pytest.approx(1, abs=5 * 6 / 12**0.5 / COUNT**0.5)
    assert found.std().item() == pytest.approx(6 / 12**0.5, rel=0.02)


def test_the_seed_of_pytorch_repeats_the_numbers_and_that_of_the_node_does_not() -> None:
    graph = "g (float[N] x) => (float[N] y) { y = RandomNormalLike<seed=1.0>(x) }"
    own = module(model_of(graph, OPSET))
    x = torch.zeros(5)
    torch.manual_seed(1)
    first, second = own(x), own(x)
    torch.manual_seed(1)
    assert torch.equal(own(x), first)
    assert not torch.equal(first, second)


def test_classes_are_drawn_with_their_probabilities() -> None:
    shares = torch.tensor([[0.1, 0.6, 0.3], [1.0, 0.0, 0.0]])
    graph = "g (float[B, C] x) => (int64[B, S] y)"
    graph += f" {{ y = Multinomial<dtype=7, sample_size={COUNT}>(x) }}"
    found = drawn(graph, shares.log())
    assert found.dtype == torch.int64
    counted = torch.stack([torch.bincount(row, minlength=3) for row in found]) / COUNT
    torch.testing.assert_close(counted, shares, rtol=0, atol=0.015)


def test_ones_are_drawn_with_their_probability() -> None:
    graph = "g (float[N] x) => (int32[N] y) { y = Bernoulli<dtype=6>(x) }"
    found = drawn(graph, torch.full((COUNT,), 0.3))
    assert found.dtype == torch.int32
    assert set(found.tolist()) == {0, 1}
    assert found.double().mean().item() == pytest.approx(0.3, abs=0.015)


def dropout(inputs: str, used: str) -> ir.Model:
    return model_of(
        f"g (float[N] x{inputs}) => (float[N] y, bool[N] m) {{ y, m = Dropout(x{used}) }}", OPSET
    )


@pytest.mark.parametrize(
    ("inputs", "used", "given"),
    [
        ("", "", []),
        (", float r", ", r", [np.array(0.3, np.float32)]),
        (", float r, bool t", ", r, t", [np.array(0.3, np.float32), np.array(False)]),
        (", float r, bool t", ", r, t", [np.array(0, np.float32), np.array(True)]),
    ],
)
def test_nothing_is_dropped(inputs: str, used: str, given: list[Any]) -> None:
    compare(dropout(inputs, used), np.arange(5, dtype=np.float32), *given)


@pytest.mark.parametrize("fed", [False, True])
def test_what_is_not_dropped_is_scaled(fed: bool) -> None:
    if fed:
        own = module(dropout(", float r, bool t", ", r, t"))
        others = [torch.tensor(0.25), torch.tensor(True)]
    else:
        graph = "g (float[N] x) => (float[N] y, bool[N] m) <float r = {0.25}, bool t = {1}>"
        own, others = module(model_of(f"{graph} {{ y, m = Dropout(x, r, t) }}", OPSET)), []
    x = torch.ones(COUNT, requires_grad=True)
    torch.manual_seed(9)
    found, kept = own(x, *others)
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.015)
    torch.testing.assert_close(found, kept / 0.75)
    found.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.75)


def test_random_numbers_are_exported_with_any_batch() -> None:
    graph = "g (float[N, 3] x) => (float[N, 3] y) { r = RandomNormalLike(x) y = Add(x, r) }"
    dims = {"inputs": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(
        module(model_of(graph, OPSET)), (torch.zeros(4, 3),), dynamic_shapes=dims
    ).module()
    first, second = exported(torch.zeros(7, 3)), exported(torch.zeros(7, 3))
    assert tuple(first.shape) == (7, 3)
    assert not torch.equal(first, second)
