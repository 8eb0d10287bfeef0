"""Conversions of element types in PyTorch, against ONNX Runtime and the standard's tables."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, expected, model_of, same
from held_constants import OPSET, compare_all_ways, module
from hypothesis import given, settings
from hypothesis import strategies as st

FLOAT8 = ["float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"]
KINDS = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
KINDS.update((each, each) for each in ["int8", "int16", "int32", "int64"])
KINDS.update((each, each) for each in ["uint8", "uint16", "uint32", "uint64"])


def cast(source: str, target: str, attributes: str = "", opset: int = OPSET) -> ir.Model:
    """Make a model; what has no type of numpy comes back as float."""
    to = onnx.TensorProto.DataType.Value(target.upper())
    if target in KINDS:
        graph = f"=> ({target}[N] y) {{ y = Cast<to={to}{attributes}>(x) }}"
    else:
        graph = f"=> (float[N] y) {{ z = Cast<to={to}{attributes}>(x) y = Cast<to=1>(z) }}"
    return model_of(f"g ({source}[N] x) {graph}", opset)


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_types_of_numpy(source: str, target: str) -> None:
    values = np.array([0, 1, 2, 3, 100, 127], KINDS[source])
    if values.dtype.kind == "f" and target in {"float", "double", "float16", "bool"}:
        values[1:] = np.nan, np.inf, -np.inf, 0.1, -1e-3
    elif values.dtype.kind == "f":
        values[1:5] += 0.75
    elif values.dtype.kind in "iu":
        # Bits that the target has no place for are left out.
        info = np.iinfo(values.dtype)
        values[3:] = info.max, info.max - 2, info.min
    if target == "float16" and values.dtype.itemsize > 2:
        values[3:] = 2048, 2049, 65504
    compare_all_ways(cast(source, target), values)


HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)
SINGLES = np.array([464, 465, 1e30, np.inf, -np.inf, np.nan, 61440, 1e-40], np.float32)


@pytest.mark.parametrize("target", FLOAT8)
def test_float8_that_saturates(target: str) -> None:
    compare(cast("float16", target), HALVES)
    compare(cast("float", target), SINGLES)


@pytest.mark.parametrize("target", FLOAT8)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_float8_that_does_not_saturate(target: str) -> None:
    # ONNX Runtime differs from the standard's table here: 480 becomes 448, and not NaN.
    kind = getattr(ml_dtypes, target.replace("float8", "float8_"))
    for source, numbers in (("float16", HALVES), ("float", SINGLES)):
        found = computed(cast(source, target, ", saturate=0"), numbers)
        same(found, [numbers.astype(kind).astype(np.float32)], 0, 0)


@pytest.mark.parametrize("target", ["int4", "uint4"])
def test_numbers_of_four_bits(target: str) -> None:
    compare(cast("int32", target), np.array([7, 8, 15, 16, -8, -9, 100, 300, -300], np.int32))
    reals = np.array([0.4, 0.5, 0.6, 1.5, 2.5, 6.7], np.float32)
    compare(cast("float", target), reals if target == "uint4" else np.append(reals, -reals))


@settings(max_examples=60, deadline=None)
@given(st.floats(width=32))
def test_float4_is_what_ml_dtypes_rounds_to(real: float) -> None:
    array = np.array([real], np.float32)
    found = module(cast("float", "float4e2m1", opset=25))(torch.from_numpy(array)).numpy()
    wanted = np.where(np.isnan(array), 0, array).astype(ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


TOP = 2.0**127


@pytest.mark.parametrize(
    ("mode", "saturate", "pairs"),
    [
        ("up", 1, [(1.0, 1.0), (1.1, 2.0), (0, 2**-127), (1.5 * TOP, TOP), (np.inf, TOP)]),
        ("up", 0, [(3.0, 4.0), (1.5 * TOP, np.nan), (np.inf, np.nan), (np.nan, np.nan)]),
        ("down", 1, [(1.9, 1.0), (3.99, 2.0), (1.9 * TOP, TOP), (np.nan, np.nan)]),
        ("nearest", 1, [(1.4, 1.0), (1.5, 2.0), (2.9, 2.0), (3.0, 4.0), (1.5 * TOP, TOP)]),
        ("nearest", 0, [(1.5 * TOP, np.nan), (1.4 * TOP, TOP)]),
    ],
)
def test_powers_of_two(mode: str, saturate: int, pairs: list[tuple[float, float]]) -> None:
    attributes = f', saturate={saturate}, round_mode="{mode}"'
    reals, wanted = (torch.tensor(each, dtype=torch.float32) for each in zip(*pairs, strict=True))
    found = module(cast("float", "float8e8m0", attributes, 25))(reals)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_a_cast_passes_gradients() -> None:
    x = torch.tensor([1.0, -2.5], requires_grad=True)
    module(cast("float", "double"))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]


def test_a_cast_like_another_tensor() -> None:
    model = model_of("g (float[N] x, int32[M] t) => (int32[N] y) { y = CastLike(x, t) }", OPSET)
    arrays = np.array([1.7, -1.7], np.float32), np.array([1], np.int32)
    compare_all_ways(model, *arrays)
    assert expected(model, *arrays)[0].tolist() == [1, -1]


def bit_cast(source: str, target: str) -> ir.Model:
    to = onnx.TensorProto.DataType.Value(target.upper())
    return model_of(f"g ({source}[N] x) => ({target}[N] y) {{ y = BitCast<to={to}>(x) }}", 26)


@pytest.mark.parametrize(
    ("source", "target"),
    [("float", "uint32"), ("int64", "double"), ("uint16", "float16"), ("bool", "uint8")],
)
def test_bits_are_kept(source: str, target: str) -> None:
    values = np.array([0, 1, 1, 0]).astype(KINDS[source])
    for one, other in ((source, target), (target, source)):
        array = values if one == source else values.view(KINDS[target])
        found = module(bit_cast(one, other))(torch.from_numpy(array.copy())).numpy()
        assert found.dtype == KINDS[other]
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("uint4", [*range(16)]), ("int4", [*range(8), *range(-8, 0)])],
)
def test_four_bits_are_kept(target: str, wanted: list[int]) -> None:
    every = torch.arange(16, dtype=torch.uint8)
    assert module(bit_cast("uint4", target))(every).tolist() == wanted
    floats = module(bit_cast("uint4", "float4e2m1"))(every)
    assert floats.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert module(bit_cast("float4e2m1", target))(floats).tolist() == wanted
