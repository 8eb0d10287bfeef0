"""SavedModels: as text, with bicubic resizing, and with what ONNX cannot compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from converted_models import computed

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

IMAGES = np.random.default_rng(0).random((2, 8, 6, 3), np.float32)


def saved(folder: Path, function: Any, *specs: Any) -> Path:
    module = tf.Module()
    module.run = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), {"serving_default": module.run})
    return folder


@pytest.fixture
def resizing(tmp_path: Path) -> tuple[Path, Any]:
    def sizes(x: Any) -> dict[str, Any]:
        found = {
            f"to_{height}_{width}": tf.image.resize(x, [height, width], method="bicubic")
            for height, width in ((11, 13), (5, 4), (1, 2), (8, 6))
        }
        for name, corners in (("legacy", False), ("corners", True)):
            found[name] = tf.raw_ops.ResizeBicubic(images=x, size=[11, 1], align_corners=corners)
        whole = tf.cast(tf.clip_by_value(x, 0, 1) * 255, tf.uint8)
        return {**found, "whole": tf.image.resize(whole, [9, 9], method="bicubic")}

    spec = tf.TensorSpec([None, *IMAGES.shape[1:]], tf.float32, name="x")
    return saved(tmp_path / "model", sizes, spec), sizes


def compared(model: ir.Model, function: Any) -> None:
    for name, array in computed(model, x=IMAGES).items():
        expected = function(tf.constant(IMAGES))[name].numpy()
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-4, err_msg=name)
        assert array.shape == expected.shape


@pytest.mark.parametrize("opset", [11, 18])
def test_bicubic_sizes_are_those_of_tensorflow(resizing: tuple[Path, Any], opset: int) -> None:
    folder, function = resizing
    compared(convert(str(folder), options=Options(opset=opset)).model, function)


def test_a_saved_model_as_text(resizing: tuple[Path, Any]) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    folder, function = resizing
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    message = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    text.write_text(text_format.MessageToString(message))
    binary.unlink()

    compared(convert(str(folder)).model, function)
    compared(convert(str(text)).model, function)

    text.write_text(text.read_text()[: text.stat().st_size // 2])
    with pytest.raises(GraphoptError, match="is no SavedModel in protobuf's text format") as error:
        convert(str(folder))
    assert str(error.value).startswith(str(text))


def test_a_saved_model_as_text_is_screened(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    def reads(x: Any) -> dict[str, Any]:
        return {"y": tf.io.read_file(x)}

    folder = saved(tmp_path / "model", reads, tf.TensorSpec([], tf.string, name="x"))
    binary = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    binary.unlink()
    with pytest.raises(GraphoptError, match="the operator ReadFile"):
        convert(str(folder))


@pytest.mark.parametrize("operator", ["Equal", "NotEqual"])
def test_texts_that_are_compared_are_refused(tmp_path: Path, operator: str) -> None:
    def compares(a: Any, b: Any) -> dict[str, Any]:
        return {"y": getattr(tf.raw_ops, operator)(x=a, y=b)}

    specs = [tf.TensorSpec([None], tf.string, name=name) for name in "ab"]
    folder = saved(tmp_path / "model", compares, *specs)
    message = rf"model: {operator} \(at .*\) compares texts, .*; look them up in a table"
    with pytest.raises(GraphoptError, match=message) as error:
        convert(str(folder))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("operator", ["Equal", "NotEqual"])
@pytest.mark.parametrize("opset", [9, 18])
def test_numbers_are_compared(tmp_path: Path, operator: str, opset: int) -> None:
    def compares(a: Any, b: Any) -> dict[str, Any]:
        return {"y": getattr(tf.raw_ops, operator)(x=a, y=b)}

    specs = [tf.TensorSpec([None], tf.int32, name=name) for name in "ab"]
    folder = saved(tmp_path / "model", compares, *specs)
    numbers = np.arange(4, dtype=np.int32)
    found = computed(
        convert(str(folder), options=Options(opset=opset)).model, a=numbers, b=numbers[::-1]
    )
    np.testing.assert_array_equal(found["y"], [operator == "NotEqual"] * 4)
