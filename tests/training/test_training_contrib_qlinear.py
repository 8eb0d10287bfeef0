"""Operators of com.microsoft from quantized to quantized tensors, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from microsoft_nodes import FLOAT, check
from onnx import helper

RNG = np.random.default_rng(0)
TYPES = (np.uint8, np.int8)


def quantized(dtype: Any, *shape: int) -> Any:
    bounds = np.iinfo(dtype)
    return RNG.integers(bounds.min, bounds.max + 1, size=shape).astype(dtype)


def with_scale(name: str, array: Any, scale: float) -> dict[str, Any]:
    point = array.dtype.type(7 if array.dtype == np.int8 else 130)
    return {name: array, f"{name}_scale": np.float32(scale), f"{name}_point": point}


def grid(dtype: Any, scale: float) -> dict[str, Any]:
    return {"scale": np.float32(scale), "point": dtype(5)}


def output(dtype: Any) -> dict[str, int]:
    return {"y": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}


HELD = ("a_scale", "a_point", "b_scale", "b_point", "x_scale", "x_point", "scale", "point")


def checked(operator: str, given: dict[str, Any], dtype: Any, atol: int, **more: Any) -> None:
    """Compare; `atol` steps are what tables and sums of another order may differ by."""
    held = tuple(name for name in HELD if name in given)
    check(operator, given, output(dtype), held=held, rtol=0, atol=atol, **more)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_arithmetic(operator: str, dtype: Any) -> None:
    for shape in ((3, 4), (4,), (1,)):
        a = with_scale("a", quantized(dtype, 2, 3, 4), 0.03)
        b = with_scale("b", quantized(dtype, *shape), 0.02)
        checked(operator, a | b | grid(dtype, 0.05), dtype, 1)


@pytest.mark.parametrize("dtype", TYPES)
def test_activations(dtype: Any) -> None:
    given = with_scale("x", quantized(dtype, 3, 50), 0.03)
    checked("QLinearSigmoid", given | grid(dtype, 1 / 256), dtype, 1)
    checked("QLinearLeakyRelu", given | grid(dtype, 0.04), dtype, 1, alpha=0.3)
    for axis, opset in ((-1, 13), (0, 13), (0, 12)):
        more = {"axis": axis, "opset": opset}
        checked("QLinearSoftmax", given | grid(dtype, 1 / 256), dtype, 1, **more)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("last", [0, 1])
def test_means(dtype: Any, last: int) -> None:
    given = with_scale("x", quantized(dtype, 2, 6, 5, 4), 0.03) | grid(dtype, 0.02)
    checked("QLinearGlobalAveragePool", given, dtype, 1, channels_last=last)
    window = {"kernel_shape": [2, 3], "pads": [0, 1, 0, 1]}
    for counted in (0, 1):
        more = {"count_include_pad": counted, "channels_last": last, **window}
        checked("QLinearAveragePool", given, dtype, 1, **more)


@pytest.mark.parametrize("dtype", TYPES)
def test_joined_tensors(dtype: Any) -> None:
    a = with_scale("a", quantized(dtype, 2, 3), 0.03)
    b = with_scale("b", quantized(dtype, 2, 4), 0.02)
    checked("QLinearConcat", grid(dtype, 0.04) | a | b, dtype, 1, axis=1)


@pytest.mark.parametrize("real", [False, True])
def test_products(*, real: bool) -> None:
    a = with_scale("a", quantized(np.uint8, 3, 6), 0.03)
    b = with_scale("b", quantized(np.int8, 5, 6), 0.02)
    c = {"c": RNG.integers(-500, 500, size=5).astype(np.int32)}
    if real:
        check("QGemm", a | b | c, {"y": FLOAT}, alpha=0.5, transB=1)
    else:
        given = a | b | c | grid(np.uint8, 0.4)
        checked("QGemm", given, np.uint8, 1, alpha=0.5, transB=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantization_of_16_bits_too(dtype: Any) -> None:
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    scale, point = np.float32(0.01), dtype(3)
    check("QuantizeLinear", {"x": x, "scale": scale, "point": point}, output(dtype), atol=0)
    whole = {"x": quantized(dtype, 3, 4), "scale": scale, "point": point}
    check("DequantizeLinear", whole, {"y": FLOAT})
    scales, points = np.array([0.01, 0.02, 0.03], np.float32), np.array([1, 2, 3], dtype)
    rows = {"x": x, "scale": scales, "point": points}
    check("QuantizeLinear", rows, output(dtype), atol=0, axis=0)
