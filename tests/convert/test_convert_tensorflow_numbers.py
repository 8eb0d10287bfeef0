"""Numbers that tf2onnx by itself takes for others: negative integers, doubles, large integers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.convert import Options, convert
from graphopt.errors import CheckFailed

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _functions_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("tensorflow_integers", None)


def results(name: str, opset: int | None = None, **feeds: Any) -> tuple[dict[str, Any], Any]:
    """Run what was converted, and the function."""
    source = f"tensorflow_integers:{name}"
    model = convert(source, framework="tensorflow", options=Options(opset=opset)).model
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, feeds), strict=True))
    import tensorflow_integers

    expected = getattr(tensorflow_integers, name)(*feeds.values())
    assert found.keys() == expected.keys()
    return found, {key: value.numpy() for key, value in expected.items()}


@pytest.mark.parametrize("opset", [None, 9, 13])
def test_integers_are_divided_towards_minus_infinity(opset: int | None) -> None:
    random = np.random.default_rng(0)
    x = random.integers(-50, 50, (64, 4), dtype=np.int32)
    y = random.choice(np.array([-7, -3, -1, 1, 2, 9], np.int32), (64, 4))
    x[0] = np.iinfo(np.int32).min
    y[0] = [2, 3, 7, -7]

    found, expected = results("divided", opset, x=x, y=y)

    np.testing.assert_array_equal(expected["floor"], x // y)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])


def test_floats_are_divided_towards_minus_infinity() -> None:
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32) * 9
    found, expected = results("divided_floats", x=x)
    np.testing.assert_array_equal(found["floor"], expected["floor"])
    np.testing.assert_allclose(found["rest"], expected["rest"], atol=1e-5)


def test_the_largest_doubles_keep_all_digits() -> None:
    x = 1 + np.random.default_rng(0).normal(size=(5, 4)) * 1e-12
    found, expected = results("largest_doubles", x=x)
    for key in expected:
        assert found[key].dtype == expected[key].dtype
        np.testing.assert_array_equal(found[key], expected[key])


def test_the_largest_of_large_integers_is_found() -> None:
    x = 2**40 + np.random.default_rng(0).permuted(np.arange(20).reshape(5, 4), axis=1)
    found, expected = results("largest_integers", x=x)
    for key in expected:
        assert found[key].dtype == expected[key].dtype
        np.testing.assert_array_equal(found[key], expected[key])


def test_a_shift_to_the_right_keeps_the_sign() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (16, 4), dtype=np.int32)
    found, expected = results("shifted", x=x)
    np.testing.assert_array_equal(expected["int8"], x >> 2)
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])


def equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, wanted in expected.items():
        assert found[key].dtype == wanted.dtype, key
        np.testing.assert_array_equal(found[key], wanted, err_msg=key)


@pytest.mark.parametrize("opset", [None, 11])
def test_an_index_below_zero_is_no_class(opset: int | None) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (7, 4), dtype=np.int32)
    x[0, 0] = -1
    equal(*results("encoded", opset, x=x))


def test_the_proof_tries_integers_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.convert.tensorflow.handlers import handlers as known

    def without(*args: Any) -> dict[str, Any]:
        return {name: item for name, item in known(*args).items() if name != "OneHot"}

    monkeypatch.setattr("graphopt.convert.tensorflow.export.handlers", without)
    with pytest.raises(CheckFailed, match="output classes at batch=2 differs"):
        convert("tensorflow_integers:one_hot_of_tf2onnx", framework="tensorflow")


@pytest.mark.parametrize("opset", [None, 9, 11])
def test_integers_are_compared_with_all_digits(opset: int | None) -> None:
    x = np.random.default_rng(0).integers(-(2**62), 2**62, (16, 4))
    equal(*results("compared", opset, x=x, y=x + np.arange(-1, 3)))


def test_64_bits_are_shifted() -> None:
    equal(*results("shifted_long", x=np.random.default_rng(0).integers(-(2**62), 2**62, (16, 4))))


def test_what_goes_to_one_place_is_added_up() -> None:
    equal(*results("added_up", x=np.arange(-5, 9, dtype=np.int32)))


def test_rests_have_the_sign_of_what_is_divided() -> None:
    equal(*results("rests", x=np.arange(-8, 8, dtype=np.int32).reshape(4, 4)))


@pytest.mark.parametrize("size", [1e-6, 1.0, 50.0])
def test_small_numbers_keep_their_digits(size: float) -> None:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * np.float32(size)
    found, expected = results("near_zero", x=x)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-6, err_msg=key)


def test_the_ends_of_floats_are_kept() -> None:
    x = np.array([[np.inf, -np.inf, np.nan, -1], [0, 3e38, -3e38, 1e-36]], np.float32)
    found, expected = results("near_zero", x=x)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-6, err_msg=key)


def test_numbers_are_sorted_into_intervals() -> None:
    x = np.array([[-2, -1, -0.5, 0], [1, 2, np.nan, np.inf]], np.float32)
    equal(*results("bucketized", x=x, y=np.arange(-3, 5, dtype=np.int32).reshape(2, 4)))


def test_numbers_of_any_type_are_chosen() -> None:
    equal(*results("chosen", x=np.arange(-8, 8, dtype=np.int32).reshape(4, 4)))


def test_several_integers_are_summed() -> None:
    equal(*results("summed", x=np.arange(-8, 8, dtype=np.int32).reshape(4, 4)))
