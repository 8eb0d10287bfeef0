"""TFLite files with 8-bit weights and float activations, which hybrid kernels round as they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.convert import Options, convert

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

RANDOM = np.random.default_rng(0)
IMAGES = (
    RANDOM.random((7, 8, 8, 4)).astype(np.float32) * np.linspace(0.1, 9, 7)[:, None, None, None]
)
IMAGES = IMAGES.astype(np.float32)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*layers: Any, **settings: Any) -> Path:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 4), name="image"), *layers])
        model.export(tmp_path / "saved", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        for name, value in settings.items():
            setattr(converter, name, value)
        path = tmp_path / "hybrid.tflite"
        path.write_bytes(converter.convert())
        return path

    return write


def dense() -> list[Any]:
    return [keras.layers.Flatten(), keras.layers.Dense(20)]


def rows() -> list[Any]:
    return [keras.layers.Reshape((16, 16)), keras.layers.Dense(128), keras.layers.Softmax()]


def convolution() -> list[Any]:
    return [keras.layers.Conv2D(64, 3, activation="relu")]


def depthwise() -> list[Any]:
    return [keras.layers.DepthwiseConv2D(3, depth_multiplier=32)]


# One such layer each: the input is the same to the last bit, and so must be what it rounds to.
LAYERS = {"dense": dense, "rows": rows, "convolution": convolution, "depthwise": depthwise}


def computed(model: ir.Model, images: Any) -> Any:
    """What the model says, without ONNX Runtime's MatMulNBits, which rounds once more."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": images})[0]


def interpreted(path: Path, images: Any) -> Any:
    interpreter = tf.lite.Interpreter(
        str(path),
        experimental_op_resolver_type=(
            tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    interpreter.resize_tensor_input(0, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def assert_same(model: ir.Model, path: Path) -> None:
    for size in (7, 3, 1):
        expected = interpreted(path, IMAGES[:size])
        bound = 128 * 2.0**-23 * np.abs(expected).max()
        np.testing.assert_allclose(computed(model, IMAGES[:size]), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("name", "opset"), [*((name, None) for name in LAYERS), ("dense", 13)])
def test_each_sample_is_rounded_as_tflite_does(write: Write, name: str, opset: int | None) -> None:
    path = write(*LAYERS[name]())
    conversion = convert(str(path), options=Options(opset=opset))
    assert "int8" in conversion.notes[0]
    assert_same(conversion.model, path)


def test_weights_with_one_scale_are_multiplied_without_zero_point(write: Write) -> None:
    path = write(keras.layers.Conv2D(64, 5), _experimental_disable_per_channel=True)
    assert_same(convert(str(path)).model, path)


def test_fully_connected_layers_of_old_files_have_no_zero_point(write: Write) -> None:
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    path = write(*dense())
    content = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    changed = 0
    for operator in content.subgraphs[0].operators:
        if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
            changed += bool(operator.builtinOptions.asymmetricQuantizeInputs)
            operator.builtinOptions.asymmetricQuantizeInputs = False
    assert changed == 1
    builder = flatbuffers.Builder()
    builder.Finish(content.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    assert_same(convert(str(path)).model, path)


def test_samples_that_are_all_zeros(write: Write) -> None:
    path = write(*convolution())
    model = convert(str(path)).model
    nothing = np.zeros((2, 8, 8, 4), np.float32)
    np.testing.assert_allclose(computed(model, nothing), interpreted(path, nothing), atol=1e-7)


def test_bound_is_what_roundings_were_seen_to_move(write: Write) -> None:
    hidden = [keras.layers.Flatten(), keras.layers.Dense(64, activation="tanh")]
    path = write(*hidden, keras.layers.Dense(20))
    conversion = convert(str(path))
    assert "which roundings were seen to move it" in conversion.notes[0]
    largest = np.abs(interpreted(path, IMAGES)).max()
    assert {parity.bound for parity in conversion.parity} == {conversion.parity[0].bound}
    assert 0 < conversion.parity[0].max_abs <= conversion.parity[0].bound < 0.02 * largest
