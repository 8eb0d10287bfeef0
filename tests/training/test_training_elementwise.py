"""Arithmetic on real numbers in PyTorch, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import Array, compare, model_of
from held_constants import OPSET, compare_all_ways, module

FINITE = [1e30, 90.0, 20.5, 3.5, 2.5, 1.5, 1.0, 0.5, 0.3, 1e-30, 0.0]
REALS = np.array([np.inf, np.nan, *FINITE, *(-each for each in FINITE), -np.inf])
UNARY = ["Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf"]
UNARY += ["Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Tan"]
IN_DOUBLE = ["Abs", "Ceil", "Exp", "Floor", "IsInf", "IsNaN", "Neg", "Round", "Sign", "Sqrt"]
"""What ONNX Runtime computes of float64 as well."""

COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
CLIPPED = model_of(
    "g (float[N] x, float low, float high) => (float[N] y) { y = Clip(x, low, high) }", OPSET
)


def unary(name: str, dtype: str = "float") -> ir.Model:
    result = "bool" if name.startswith("Is") else dtype
    return model_of(f"g ({dtype}[N] x) => ({result}[N] y) {{ y = {name}(x) }}", OPSET)


def binary(name: str, first: str, second: str, result: str) -> ir.Model:
    return model_of(f"g ({first} a, {second} b) => ({result}[K] y) {{ y = {name}(a, b) }}", OPSET)


def pairs(first: Array, second: Array, dtype: str = "float32") -> tuple[Array, Array]:
    left, right = np.meshgrid(first, second)
    return left.reshape(-1).astype(dtype), right.reshape(-1).astype(dtype)


@pytest.mark.filterwarnings("ignore:.*encountered in cast")
@pytest.mark.parametrize("name", [*UNARY, "IsInf", "IsNaN"])
def test_a_function_of_all_kinds_of_numbers(name: str) -> None:
    # A period is lost in numbers as large as these.
    reals = REALS[np.abs(REALS) < 1e20] if name in {"Sin", "Cos", "Tan"} else REALS
    compare_all_ways(unary(name), reals.astype(np.float32), rtol=3e-6)


@pytest.mark.parametrize("name", IN_DOUBLE)
def test_a_function_of_doubles(name: str) -> None:
    compare_all_ways(unary(name, "double"), REALS, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["Abs", "Ceil", "Floor", "Neg", "Round", "Sqrt"])
def test_zeros_have_the_sign_that_onnx_runtime_gives_them(name: str) -> None:
    model = model_of(f"g (float[N] x) => (float[N] z) {{ y = {name}(x) z = Reciprocal(y) }}", OPSET)
    compare_all_ways(model, np.array([0.0, -0.0], np.float32))


@pytest.mark.parametrize("sign", ["negative", "positive"])
def test_infinities_of_one_sign(sign: str) -> None:
    model = model_of(f"g (float[N] x) => (bool[N] y) {{ y = IsInf<detect_{sign}=0>(x) }}", OPSET)
    compare(model, REALS.astype(np.float32))


@pytest.mark.parametrize("name", [*COMPARISONS, "Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_pairs_of_reals(name: str) -> None:
    model = binary(name, "float[N]", "float[M]", "bool" if name in COMPARISONS else "float")
    compare(model, *pairs(REALS, REALS), rtol=2e-6)
    # Alone, both are no tensors but numbers.
    scalars = binary(name, "float[1]", "float", "bool" if name in COMPARISONS else "float")
    for first in (-2.5, 0.0, 0.3, np.inf, np.nan):
        for second in (-2.5, 0.0, 0.7, np.inf, np.nan):
            one, other = np.array([first], np.float32), np.array(second, np.float32)
            compare_all_ways(scalars, one, other, rtol=2e-6)


@pytest.mark.parametrize(("dtype", "array"), [("float", "float32"), ("double", "float64")])
def test_remainders_have_the_sign_of_the_dividend_with_fmod(dtype: str, array: str) -> None:
    model = model_of(
        f"g ({dtype}[N] a, {dtype}[N] b) => ({dtype}[N] y) {{ y = Mod<fmod=1>(a, b) }}", OPSET
    )
    dividends = np.array([-7.5, -2, 0, 2, 7.5, np.inf, np.nan])
    compare(model, *pairs(dividends, np.array([-3, -0.5, 2, np.inf, np.nan]), array))


POWERS = {"float": "float32", "double": "float64", "int32": "int32", "int64": "int64"}


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("base", POWERS)
def test_powers_have_the_type_of_the_base(base: str, power: str) -> None:
    first = np.array([1, 2, 3, 7, 0, -2, -1], POWERS[base])
    second = np.array([3, 5, 2, 2, 3, 3, 2], POWERS[power])
    compare_all_ways(binary("Pow", f"{base}[N]", f"{power}[M]", base), first, second)
    for exponent in (0, 1, 2, 3):
        model = binary("Pow", f"{base}[N]", power, base)
        compare_all_ways(model, first, np.array(exponent, POWERS[power]))


def test_negative_powers_of_integers() -> None:
    model = binary("Pow", "int64[N]", "int64", "int64")
    compare_all_ways(model, np.array([1, -1, 2, -3]), np.array(-1))


def test_a_constant_power_has_a_gradient_at_negative_numbers() -> None:
    model = model_of("g (float[N] x) => (float[N] y) <float two = {2}> { y = Pow(x, two) }", OPSET)
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    module(model)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-4.0, 0.0, 6.0]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", ["Max", "Min", "Sum", "Mean"])
def test_any_number_of_inputs(name: str, count: int) -> None:
    shapes = [(3, 1), (4,), (2, 1, 1), ()][:count]
    generator = np.random.default_rng(0)
    arrays = [np.asarray(generator.normal(size=each), np.float32) for each in shapes]
    types = ["float[3, 1] a", "float[4] b", "float[2, 1, 1] c", "float d"][:count]
    names = ", ".join(each[-1] for each in types)
    dims = "I, J, K" if count == 4 else "I, J"
    model = model_of(
        f"g ({', '.join(types)}) => (float[{dims}] y) {{ y = {name}({names}) }}", OPSET
    )
    compare_all_ways(model, *arrays)


@pytest.mark.parametrize("names", [["low", "high"], ["low", ""], ["", "high"], []])
@pytest.mark.parametrize(
    "dtype", ["float", "double", "int8", "int32", "int64", "uint8", "uint32", "uint64"]
)
def test_limits(dtype: str, names: list[str]) -> None:
    kind = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    limits = {"low": np.array(3, kind), "high": np.array(100, kind)}
    inputs = "".join(f", {dtype} {name}" for name in names if name)
    model = model_of(
        f"g ({dtype}[N] x{inputs}) => ({dtype}[N] y) {{ y = Clip({', '.join(['x', *names])}) }}",
        OPSET,
    )
    numbers = np.array([0, 2, 3, 50, 100, 120], kind)
    if dtype == "uint64":
        numbers[5] = 2**63 + 5
    if numbers.dtype.kind == "f":
        numbers[:3] = np.nan, -np.inf, np.inf
    compare_all_ways(model, numbers, *(limits[name] for name in names if name))


def test_the_upper_limit_wins() -> None:
    bounds = np.array(3, np.float32), np.array(2, np.float32)
    compare_all_ways(CLIPPED, np.array([0, 2.5, 9], np.float32), *bounds)


def test_limits_pass_gradients_to_what_is_within_and_to_the_bounds() -> None:
    values = [torch.tensor(each, requires_grad=True) for each in ([-1, 0.5, 7, 8], 0.0, 3.0)]
    module(CLIPPED)(*values).sum().backward()
    gradients = [each.grad.tolist() for each in values if each.grad is not None]
    assert gradients == [[0.0, 1.0, 0.0, 0.0], 1.0, 2.0]


def test_arithmetic_is_exported_with_any_batch() -> None:
    body = "u = Mul(x, w) v = Add(u, b) p = Pow(v, two) c = Clip(p, zero, six) d = Div(c, u)"
    model = model_of(
        "g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1.0, 2.0, 3.0}, float b = {0.5},"
        " float two = {2.0}, float zero = {0.0}, float six = {6.0}>"
        f" {{ {body} e = Greater(d, b) y = Where(e, d, x) }}",
        OPSET,
    )
    own = module(model)
    dims = {"inputs": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(own, (torch.rand(4, 3),), dynamic_shapes=dims)
    x = torch.rand(7, 3) + 0.1
    torch.testing.assert_close(exported.module()(x), own(x))
