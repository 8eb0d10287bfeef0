"""Arithmetic, order and bits of integers of all sizes in PyTorch, against Python's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, model_of, same
from held_constants import OPSET, compare_all_ways, module
from hypothesis import example, given, settings
from hypothesis import strategies as st

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]

ARITHMETIC: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "BitwiseAnd": lambda a, b: a & b,
    "BitwiseOr": lambda a, b: a | b,
    "BitwiseXor": lambda a, b: a ^ b,
    "Div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "Max": max,
    "Min": min,
    "Mod": lambda a, b: a % b,
    "Mul": lambda a, b: a * b,
    "Sub": lambda a, b: a - b,
}
ORDER: dict[str, Any] = {
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}


def binary(name: str, dtype: str, result: str, attributes: str = "") -> ir.Model:
    return model_of(
        f"g ({dtype}[N] a, {dtype}[N] b) => ({result}[N] y) {{ y = {name}{attributes}(a, b) }}",
        OPSET,
    )


def five(dtype: str) -> Any:
    info = np.iinfo(dtype)
    return st.lists(st.integers(int(info.min), int(info.max)), min_size=5, max_size=5)


def wrapped(value: int, dtype: str) -> int:
    bits = np.iinfo(dtype).bits
    value %= 2**bits
    return value - 2**bits if dtype[0] == "i" and value >= 2 ** (bits - 1) else value


def tensors(dtype: str, *lists: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(np.array(each, dtype)) for each in lists]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str, dtype: str) -> None:
    function = module(binary(name, dtype, dtype))
    top = int(np.iinfo(dtype).max)

    @settings(max_examples=40, deadline=None)
    @given(five(dtype), five(dtype))
    @example([top, top - 1, top, top // 2 + 2, 7], [top, top, 2, 2, 2])
    def compare_elements(first: list[int], second: list[int]) -> None:
        if name in {"Div", "Mod"}:
            # A division by zero has no result, nor has the lowest number by -1.
            second = [1 if each in {0, -1} else each for each in second]
        found = function(*tensors(dtype, first, second))
        assert found.dtype == getattr(torch, dtype)
        wanted = [ARITHMETIC[name](x, y) for x, y in zip(first, second, strict=True)]
        assert found.tolist() == [wrapped(each, dtype) for each in wanted]

    compare_elements()


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ORDER)
def test_order(name: str, dtype: str) -> None:
    function = module(binary(name, dtype, "bool"))

    @settings(max_examples=30, deadline=None)
    @given(five(dtype), five(dtype))
    def compare_elements(first: list[int], second: list[int]) -> None:
        second = [*second[:4], first[4]]
        wanted = [ORDER[name](x, y) for x, y in zip(first, second, strict=True)]
        assert function(*tensors(dtype, first, second)).tolist() == wanted

    compare_elements()


@pytest.mark.parametrize("dtype", [each for each in INTEGERS if each[0] == "u"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bits_are_moved(direction: str, dtype: str) -> None:
    info = np.iinfo(dtype)
    top = int(info.max)
    steps = [step for step in (0, 1, 3, info.bits - 1) for _ in range(4)]
    numbers = [top, top // 3, 1, top // 2 + 1] * 4
    model = binary("BitShift", dtype, dtype, f'<direction="{direction}">')
    (found,) = computed(model, np.array(numbers, dtype), np.array(steps, dtype))
    moved = [
        wrapped(x << step, dtype) if direction == "LEFT" else x >> step
        for x, step in zip(numbers, steps, strict=True)
    ]
    assert found.dtype == dtype
    assert found.tolist() == moved


@pytest.mark.parametrize("dtype", INTEGERS)
def test_functions_of_one_integer(dtype: str) -> None:
    info = np.iinfo(dtype)
    numbers = np.array([info.max, info.max // 3, 0, 1, info.min + 1], dtype)
    model = model_of(
        f"g ({dtype}[N] x) => ({dtype}[N] y, {dtype}[N] z, {dtype}[N] w)"
        " { y = BitwiseNot(x) z = Sign(x) w = Abs(x) }",
        OPSET,
    )
    same(computed(model, numbers), [~numbers, np.sign(numbers), np.abs(numbers)], 0, 0)


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_remainders(dtype: str, fmod: int) -> None:
    dividends, divisors = ([7, 6, 5], [3, 5, 2]) if dtype[0] == "u" else ([-7, 7, -6], [3, -3, 4])
    model = binary("Mod", dtype, dtype, f"<fmod={fmod}>")
    compare_all_ways(model, np.array(dividends, dtype), np.array(divisors, dtype))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_division_truncates_numbers_as_it_does_tensors(dtype: str) -> None:
    model = binary("Div", dtype, dtype)
    compare_all_ways(model, np.array([7, -7, 7, -7], dtype), np.array([2, 2, -2, -2], dtype))


@pytest.mark.parametrize("name", ["And", "Or", "Xor", "Equal"])
def test_truth_values(name: str) -> None:
    model = binary(name, "bool", "bool")
    compare_all_ways(model, np.array([True, True, False, False]), np.array([True, False] * 2))


def test_negation() -> None:
    model = model_of("g (bool[N] a) => (bool[N] y) { y = Not(a) }", OPSET)
    compare_all_ways(model, np.array([True, False]))


def test_choices_are_broadcast() -> None:
    model = model_of(
        "g (bool[2, 1] c, float[3] a, float b) => (float[I, J] y) { y = Where(c, a, b) }", OPSET
    )
    chosen = np.array([[True], [False]])
    compare(model, chosen, np.arange(3, dtype=np.float32), np.array(7, np.float32))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int8", "int64", "bool"])
def test_choices_of_other_types(dtype: str) -> None:
    model = model_of(
        f"g (bool[N] c, {dtype}[N] a, {dtype}[N] b) => ({dtype}[N] y) {{ y = Where(c, a, b) }}",
        OPSET,
    )
    arrays = np.array([True, False]), np.array([1, 0], dtype), np.array([0, 1], dtype)
    same(computed(model, *arrays), [np.array([1, 1], dtype)], 0, 0)
