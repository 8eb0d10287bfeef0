"""Every operator of ONNX's own backend suite, computed by PyTorch: the expected outputs.

Each model runs with its inputs fed, and once more with all of them but the first as constants, as
real models hold shapes, axes and weights.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.backend.test.loader import load_model_tests

from graphopt.convert.torch.arrays import to_numpy, to_torch
from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

DRAWN = ("bernoulli", "training_dropout", "multinomial", "random")
"""Names of cases whose outputs are drawn: shapes and types are compared."""

REFUSED = {
    "test_ai_onnx_ml_label_encoder_string": "input 'X' is text",
    "test_ai_onnx_ml_label_encoder_tensor": "input 'X' is text",
    "test_equal_string": "input 'x' is text",
    "test_flexattention": "nothing computes ai.onnx.preview.FlexAttention",
    "test_image_decoder": "nothing computes ImageDecoder",
    "test_linear_attention": "nothing computes LinearAttention",
    "test_regex_full_match": "nothing computes RegexFullMatch",
    "test_scan_sum": "it has a batch axis",
    "test_string_": "nothing computes String",
    "test_strnormalizer": "nothing computes StringNormalizer",
    "test_swiglu": "nothing computes SwiGLU",
    "test_tfidfvectorizer": "nothing computes TfIdfVectorizer",
}
"""Cases that are refused, by the start of the name, and what the error says: text, pictures in
files, and what came with opset 27 or is to come."""

ANOTHER = {
    # ONNX Runtime aligns the corner of the whole new size, not of one with a fraction.
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime's output is computed",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime's output is computed",
    # MaxPool's indices count in the shape that output_shape gives, and not in the inferred one.
    "test_maxunpool_export_with_output_shape": "ONNX Runtime's output is computed",
}
"""Cases whose expected output is not ONNX Runtime's, and why the latter's is right."""

ROUNDED = {"test_dft_inverse": 1e-6}
"""Absolute tolerance of cases whose expected output has rounding errors where zeros are, by the
start of the name."""

HELD_IN = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}
"""Element types that are unpacked, by the one whose tensors hold them."""


@functools.cache
def cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        # The cases compute overflows and divisions by zero on purpose.
        warnings.simplefilter("ignore", RuntimeWarning)
        return {case.name: case for case in load_model_tests(kind="node")}


def given(value: Any) -> Any:
    if isinstance(value, list):
        return [given(each) for each in value]
    return None if value is None else to_torch(array_of(value))


def array_of(value: Any) -> np.ndarray[Any, Any]:
    array = (
        onnx.numpy_helper.to_array(value)
        if isinstance(value, onnx.TensorProto)
        else np.asarray(value)
    )
    if array.dtype.name.startswith("float4"):
        return array.astype(np.float32)
    held = HELD_IN.get(array.dtype.name)
    return array.astype(held) if held else array


def compare(found: Any, expected: Any, name: str, rtol: float, atol: float) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            compare(one, other, name, rtol, atol)
        return
    array = to_numpy(found)
    expected = array_of(expected)
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    atol = max([atol, *(bound for start, bound in ROUNDED.items() if name.startswith(start))])
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iu":
        # ONNX does not say what is rounded to 16 bits on the way: two units in the last place.
        rtol = max(rtol, 2 * float(ml_dtypes.finfo(array.dtype).eps))
    if not any(part in name for part in DRAWN):
        wide = [
            each.astype(np.float64) if each.dtype.kind == "V" else each
            for each in (array, expected)
        ]
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)


def frozen(model: onnx.ModelProto, inputs: Sequence[Any]) -> onnx.ModelProto | None:
    """Turn all inputs but the first into initializers; None: they are no tensors."""
    names = [value.name for value in model.graph.input]
    if len(names) != len(inputs) or any(isinstance(each, list) for each in inputs[1:]):
        return None
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    del changed.graph.input[1:]
    for name, array in zip(names[1:], inputs[1:], strict=True):
        tensor = (
            onnx.TensorProto.FromString(array.SerializeToString())
            if isinstance(array, onnx.TensorProto)
            else onnx.numpy_helper.from_array(np.asarray(array), name)
        )
        tensor.name = name
        changed.graph.initializer.append(tensor)
    return changed


def module_of(model: onnx.ModelProto) -> OnnxModule:
    return OnnxModule(ir.from_proto(model)).eval()


def run(case: Any, *, held: bool) -> None:
    """Run a case; raise what is wrong with it."""
    inputs, outputs = case.data_sets[0]
    model = frozen(case.model, inputs) if held else case.model
    if model is None or (held and len(inputs) < 2):
        return
    module = module_of(model)
    with torch.no_grad():
        found = module(*[given(each) for each in (inputs[:1] if held else inputs)])
    found = found if isinstance(found, tuple) else (found,)
    for one, other in zip(found, outputs, strict=True):
        compare(one, other, case.name, case.rtol, case.atol)


def refused(name: str, starts: Sequence[str] = tuple(REFUSED)) -> bool:
    # What ONNX defines by other operators comes in these as well, in a case of its own.
    return name.startswith(tuple(starts)) and "_expanded" not in name


def operator_of(name: str) -> str:
    return str(cases()[name].model.graph.node[0].op_type)


@pytest.mark.parametrize("operator", sorted({operator_of(name) for name in cases()}))
def test_the_cases_of_an_operator(operator: str) -> None:
    wrong: dict[str, str] = {}
    for name, case in cases().items():
        if operator_of(name) != operator or name in ANOTHER or refused(name):
            continue
        for held in (False, True):
            try:
                run(case, held=held)
            except Exception as error:
                wrong[f"{name}, {'held' if held else 'fed'}"] = repr(error)
    assert not wrong


@pytest.mark.parametrize("start", REFUSED)
def test_what_is_refused_says_why(start: str) -> None:
    names = [name for name in cases() if refused(name, [start])]
    assert names
    for name in names:
        with pytest.raises(GraphoptError, match=REFUSED[start]):
            module_of(cases()[name].model)


def test_the_suite_has_the_cases_that_are_expected() -> None:
    assert len(cases()) > 1800
    assert set(ANOTHER) <= set(cases())
