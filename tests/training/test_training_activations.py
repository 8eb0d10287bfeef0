"""Activation functions in PyTorch, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, expected, model_of, same
from held_constants import OPSET, module

NUMBERS = np.array([np.inf, -np.inf, *np.linspace(-30, 30, 121), 1e-20, -1e-20, 88.0, -88.0, 1e4])
FUNCTIONS = {
    "Celu": ["", "<alpha=0.3>"],
    "Elu": ["", "<alpha=2.5>"],
    "Gelu": ["", '<approximate="tanh">'],
    "HardSigmoid": ["", "<alpha=0.5, beta=0.25>"],
    "HardSwish": [""],
    "LeakyRelu": ["", "<alpha=0.3>", "<alpha=-0.5>"],
    "Mish": [""],
    "Relu": [""],
    "Selu": ["", "<alpha=2.0, gamma=3.0>"],
    "Shrink": ["", "<bias=1.5, lambd=1.0>"],
    "Sigmoid": [""],
    "Softplus": [""],
    "Softsign": [""],
    "Tanh": [""],
    "ThresholdedRelu": ["", "<alpha=-2.0>"],
}
LIMITED = {"Gelu", "HardSwish", "Mish", "Softsign"}
"""Functions that divide or multiply infinities; what becomes of these is not defined."""

CASES = [(name, each) for name, forms in FUNCTIONS.items() for each in forms]


def function(name: str, attributes: str, dtype: str = "float") -> ir.Model:
    return model_of(f"g ({dtype}[N] x) => ({dtype}[N] y) {{ y = {name}{attributes}(x) }}", OPSET)


@pytest.mark.parametrize(("name", "attributes"), CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_function(name: str, attributes: str) -> None:
    numbers = NUMBERS[2:] if name in LIMITED else NUMBERS
    compare(function(name, attributes), numbers.astype(np.float32), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", [each for each in FUNCTIONS if each not in {"HardSigmoid"}])
def test_a_function_of_nan_is_what_onnx_runtime_says(name: str) -> None:
    compare(function(name, ""), np.array([np.nan, 1.0], np.float32), rtol=2e-6)


@pytest.mark.parametrize(("name", "alpha"), [("LeakyRelu", 0.01), ("HardSigmoid", 0.2)])
def test_default_attributes_are_of_single_precision(name: str, alpha: float) -> None:
    (found,) = computed(function(name, "", "double"), np.array([-1.0]))
    single = float(np.float32(alpha))
    assert found.item() == (-single if name == "LeakyRelu" else 0.5 - single)


@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "Softplus", "Tanh"])
def test_a_function_of_doubles(name: str) -> None:
    doubles = function(name, "", "double")
    if name == "Softplus":
        # ONNX Runtime's is of single precision inside; log1p is exact.
        wanted = np.logaddexp(NUMBERS, 0)
        same(computed(doubles, NUMBERS), [wanted], 1e-15, 1e-18)
    else:
        compare(doubles, NUMBERS, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16"])
def test_shrink_of_integers(dtype: str) -> None:
    numbers = np.array([0, 1, 2, 3, 100], dtype)
    compare(function("Shrink", "<bias=1.0, lambd=1.5>", dtype), numbers)


@pytest.mark.parametrize("alpha", [1.0, 0.25, -2.0])
def test_swish(alpha: float) -> None:
    model = model_of(
        f"g (double[N] x) => (double[N] y) {{ y = Swish<alpha={alpha}>(x) }}", opset=24
    )
    numbers = np.linspace(-9, 9, 37)
    same(computed(model, numbers), [numbers / (1 + np.exp(-alpha * numbers))], 1e-14, 1e-14)


@pytest.mark.parametrize("dims", ["1", "3, 1, 1", "3, 1, 4", "4"])
def test_slopes_are_broadcast(dims: str) -> None:
    model = model_of(
        f"g (float[2, 3, 5, 4] x, float[{dims}] slope) => (float[A, B, C, D] y)"
        " { y = PRelu(x, slope) }",
        OPSET,
    )
    generator = np.random.default_rng(1)
    shape = [int(each) for each in dims.split(",")]
    slope = np.asarray(generator.normal(size=shape), np.float32)
    compare(model, generator.normal(size=(2, 3, 5, 4)).astype(np.float32), slope)


def test_slopes_of_integers() -> None:
    model = model_of("g (int64[N] x, int64[1] s) => (int64[N] y) { y = PRelu(x, s) }", OPSET)
    same(computed(model, np.array([-2, 3]), np.array([4])), [np.array([-8, 3])], 0, 0)


def test_an_infinite_element_leaves_the_gradient_of_its_slope_finite() -> None:
    model = model_of("g (float[N] x, float[N] s) => (float[N] y) { y = PRelu(x, s) }", OPSET)
    x = torch.tensor([torch.inf, -2.0])
    slope = torch.tensor([0.5, 0.5], requires_grad=True)
    found = module(model)(x, slope)
    assert found.tolist() == [torch.inf, -1.0]
    found[1:].sum().backward()
    assert slope.grad is not None
    assert slope.grad.tolist() == [0.0, -2.0]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("HardSigmoid", "<alpha=0.3, beta=0.4>"),
        ("Selu", "<alpha=2.0, gamma=3.0>"),
        ("Shrink", "<bias=1.5, lambd=1.0>"),
        ("Softplus", ""),
        ("ThresholdedRelu", ""),
    ],
)
def test_gradients(name: str, attributes: str) -> None:
    x = torch.tensor([-30.2, -2.1, -0.7, 0.4, 1.7, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module(function(name, attributes, "double")), (x,))


@pytest.mark.parametrize("axis", [-3, -1, 0, 1, 2])
@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Hardmax"])
def test_functions_along_an_axis(name: str, axis: int) -> None:
    model = model_of(
        f"g (float[3, 4, 5] x) => (float[3, 4, 5] y) {{ y = {name}<axis={axis}>(x) }}", OPSET
    )
    numbers = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32) * 50
    compare(model, numbers, rtol=2e-6, atol=1e-6)


def test_the_first_of_equal_elements_is_the_hard_maximum() -> None:
    model = model_of("g (float[N, 4] x) => (float[N, 4] y) { y = Hardmax(x) }", OPSET)
    ties = np.array([[1, 3, 3, 3], [2, 2, 2, 2], [0, 0, 0, 1]], np.float32)
    compare(model, ties)
    assert expected(model, ties)[0].argmax(1).tolist() == [1, 0, 3]


def test_functions_are_exported_with_any_batch() -> None:
    body = "a = PRelu(x, s) b = HardSigmoid(a) c = ThresholdedRelu(b) d = Softmax(c) y = Hardmax(d)"
    graph = f"g (float[N, 3] x) => (float[N, 3] y) <float[3] s = {{0.1, 0.2, 0.3}}> {{ {body} }}"
    own = module(model_of(graph, OPSET))
    dims = {"inputs": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(own, (torch.rand(4, 3),), dynamic_shapes=dims)
    x = torch.randn(7, 3)
    torch.testing.assert_close(exported.module()(x), own(x))
