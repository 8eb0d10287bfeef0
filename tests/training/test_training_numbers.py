"""What graphs compute of sizes: the same as tensors hold, and for any size once exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from against_onnx_runtime import model_of
from held_constants import OPSET, compare_all_ways, module
from hypothesis import given, settings
from hypothesis import strategies as st

INTEGERS = st.lists(st.integers(-50, 50), min_size=1, max_size=4)
EXTREMES = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(EXTREMES, st.sampled_from(["Add", "Mul", "Sub"]), st.sampled_from(["int32", "int64"]))
def test_integers_wrap(values: list[int], name: str, dtype: str) -> None:
    array = np.array(values).astype(dtype)
    model = model_of(f"g ({dtype}[N] a, {dtype}[N] b) => ({dtype}[N] y) {{ y = {name}(a, b) }}")
    compare_all_ways(model, array, array[::-1].copy())


@settings(max_examples=30, deadline=None)
@given(INTEGERS, st.sampled_from(["ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"]))
@pytest.mark.parametrize("form", ["", ", axes", "<keepdims=0>", "<keepdims=0>, axes"])
def test_reductions_of_numbers(form: str, values: list[int], name: str) -> None:
    attributes, _, axes = form.partition(",")
    inputs, given_axes = (", int64[M] axes", ", axes") if axes else ("", "")
    model = model_of(
        f"g (int64[N] x{inputs}) => (int64{'' if 'keep' in form else '[K]'} y)"
        f" {{ y = {name}{attributes}(x{given_axes}) }}",
        OPSET,
    )
    compare_all_ways(model, np.array(values), *([np.array([-1])] if axes else []))


REALS = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=40, deadline=None)
@given(st.lists(REALS, min_size=2, max_size=2), st.sampled_from(["Add", "Div", "Mul", "Sub"]))
def test_single_precision_is_rounded_as_in_tensors(values: list[float], name: str) -> None:
    model = model_of(f"g (float a, float b) => (float y) {{ y = {name}(a, b) }}", OPSET)
    arrays = [np.array(each, np.float32) for each in values]
    compare_all_ways(model, *arrays, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Ceil", "Floor", "Round", "Sqrt", "Abs", "Neg", "Reciprocal"])
@pytest.mark.parametrize("value", [-2.5, -0.3, -0.0, 0.0, 0.5, 1.5, 7.2, np.inf, np.nan])
def test_functions_of_one_number(name: str, value: float) -> None:
    model = model_of(f"g (float x) => (float y) {{ y = {name}(x) }}", OPSET)
    compare_all_ways(model, np.array(value, np.float32), rtol=0, atol=0)


@pytest.mark.parametrize("to", [1, 6, 7, 9, 11])
@pytest.mark.parametrize(("dtype", "value"), [("int64", -3), ("int64", 2**40 + 1), ("float", 2.9)])
def test_casts_of_one_number(dtype: str, value: float, to: int) -> None:
    if (value, to) == (2**40 + 1, 9):
        value = 1
    name = {1: "float", 6: "int32", 7: "int64", 9: "bool", 11: "double"}[to]
    model = model_of(f"g ({dtype} x) => ({name} y) {{ y = Cast<to={to}>(x) }}", OPSET)
    compare_all_ways(model, np.array(value, np.int64 if dtype == "int64" else np.float32))


def test_many_numbers_are_tensors_again() -> None:
    model = model_of("g (int64[40, 1] a, int64[40] b) => (int64[N, M] y) { y = Mul(a, b) }", OPSET)
    compare_all_ways(model, np.arange(40)[:, None], np.arange(40))


FOUND: dict[str, tuple[str, Callable[[int], int]]] = {
    "a product": ("k = Mul(n, two)", lambda n: 2 * n),
    "a sum and a difference": ("a = Add(n, two) k = Sub(a, one)", lambda n: n + 1),
    "a division": ("k = Div(n, two)", lambda n: n // 2),
    "a remainder": ("m = Mod(n, two) k = Add(m, one)", lambda n: n % 2 + 1),
    "a reduction": ("s = Shape(x) p = ReduceProd<keepdims=0>(s) k = Identity(p)", lambda n: 3 * n),
    "the largest": ("k = Max(n, five)", lambda n: max(n, 5)),
    "the smallest": ("k = Min(n, five)", lambda n: min(n, 5)),
    "limits": ("k = Clip(n, , five)", lambda n: min(n, 5)),
    "a scaled size": (
        "f = Cast<to=1>(n) g = Mul(f, scale) h = Floor(g) k = Cast<to=7>(h)",
        lambda n: int(np.floor(1.5 * n)),
    ),
    "a rounded up size": (
        "f = Cast<to=1>(n) g = Mul(f, scale) h = Ceil(g) k = Cast<to=7>(h)",
        lambda n: int(np.ceil(1.5 * n)),
    ),
    "a choice that sizes decide": ("c = Equal(n, minus) k = Where(c, one, n)", lambda n: n),
    "a choice by parity": (
        "m = Mod(n, two) c = Equal(m, zero) k = Where(c, n, one)",
        lambda n: n if n % 2 == 0 else 1,
    ),
    "a comparison as a number": (
        "c = Greater(n, five) i = Cast<to=7>(c) k = Add(i, one)",
        lambda n: 1 + (n > 5),
    ),
}
"""Computations of k from n, a size, in ONNX and in Python."""


def exported(own: torch.nn.Module) -> Any:
    dims: Any = {"inputs": ({0: torch.export.Dim("n", min=2, max=64)},)}
    return torch.export.export(own, (torch.rand(8, 3),), dynamic_shapes=dims).module()


CONSTANTS = (
    "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 five = {5}, int64 minus = {-1},"
    " float scale = {1.5}, int64[1] line = {-1}"
)


@pytest.mark.parametrize("name", FOUND)
def test_a_number_follows_the_batch(name: str) -> None:
    body, wanted = FOUND[name]
    graph = f"g (float[N, 3] x) => (int64 y) <{CONSTANTS}>"
    steps = f"sizes = Shape<end=1>(x) n = Squeeze(sizes) {body} y = Identity(k)"
    own = module(model_of(f"{graph} {{ {steps} }}", OPSET))
    program = exported(own)
    for size in (2, 3, 5, 6, 7, 20):
        assert own(torch.rand(size, 3)).item() == wanted(size)
        assert program(torch.rand(size, 3)).item() == wanted(size)


@pytest.mark.parametrize("name", ["a product", "the largest", "a scaled size"])
def test_a_computed_size_follows_the_batch(name: str) -> None:
    body, wanted = FOUND[name]
    graph = f"g (float[N, 3] x) => (float[K] y) <{CONSTANTS}>"
    steps = f"sizes = Shape<end=1>(x) n = Squeeze(sizes) {body} l = Reshape(k, line)"
    program = exported(module(model_of(f"{graph} {{ {steps} y = ConstantOfShape(l) }}", OPSET)))
    for size in (2, 3, 20):
        assert tuple(program(torch.rand(size, 3)).shape) == (wanted(size),)
