from __future__ import annotations

import importlib.resources
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from converted_models import run, shapes

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

SIZES = (1, 3, 7)
MEDIAPIPE = "modules/face_detection/face_detection_short_range.tflite"

Write = Callable[..., Path]


def interpreted(path: Path, array: Any) -> Any:
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], array.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(scope="module")
def digits() -> Any:
    from sklearn.datasets import load_digits

    return (load_digits().data / 16).reshape(-1, 8, 8, 1).astype(np.float32)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Write:
    """Convert a small network, trained on digits, with the settings of a TFLiteConverter."""
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits, load_digits().target, epochs=3, verbose=0)
    folder = tmp_path_factory.mktemp("tflite")
    model.export(folder / "saved", verbose=False)

    def write(name: str, *, calibrated: bool = False, **settings: Any) -> Path:
        path = folder / f"{name}.tflite"
        if path.exists():
            return path
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
        if name != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if calibrated:
            converter.representative_dataset = lambda: ([digits[i : i + 1]] for i in range(100))
        for setting, value in settings.items():
            holder = converter.target_spec if setting.startswith("supported") else converter
            setattr(holder, setting, value)
        path.write_bytes(converter.convert())
        return path

    return write


def test_float_file_has_a_dynamic_batch_and_the_names_of_its_signature(
    write: Write, digits: Any
) -> None:
    path = write("float")
    conversion = convert(str(path))
    assert shapes(conversion.model) == {"image": ["batch", 8, 8, 1], "output_0": ["batch", 10]}
    assert [parity.sizes["batch"] for parity in conversion.parity] == [2, 3, 1]
    assert conversion.notes == ()
    for size in SIZES:
        (found,) = run(conversion.model, image=digits[:size])
        np.testing.assert_allclose(found, interpreted(path, digits[:size]), rtol=1e-5, atol=1e-6)


def test_channels_come_first_where_asked_for(write: Write, digits: Any) -> None:
    path = write("float")
    conversion = convert(str(path), options=Options(layout="nchw"))
    assert shapes(conversion.model)["image"] == ["batch", 1, 8, 8]
    (found,) = run(conversion.model, image=digits[:3].transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, interpreted(path, digits[:3]), rtol=1e-5, atol=1e-6)
    assert conversion.model.graph[0].op_type == "Conv"


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integer_file_stays_quantized_and_within_one_step(
    write: Write, digits: Any, dtype: str
) -> None:
    path = write(
        dtype,
        calibrated=True,
        supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
        inference_input_type=tf.as_dtype(dtype),
        inference_output_type=tf.as_dtype(dtype),
    )
    conversion = convert(str(path))
    model = conversion.model
    assert conversion.notes == ("output output_0 is quantized: compared within one step, 1",)
    assert {str(value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)} == {
        dtype.upper()
    }
    counts = Counter(node.op_type for node in model.graph)
    assert counts["QuantizeLinear"] >= 3
    weights = [value.dtype for value in model.graph.initializers.values()]
    assert ir.DataType.INT8 in weights
    for size in SIZES:
        low = 0 if dtype == "uint8" else -128
        array = (digits[:size] * 255 + low).astype(dtype)
        (found,) = run(model, image=array)
        difference = found.astype(int) - interpreted(path, array).astype(int)
        assert np.abs(difference).max() <= 1


def test_sixteen_bit_activations_need_opset_21(write: Write) -> None:
    sixteen = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
    path = write("wide", calibrated=True, supported_ops=[getattr(tf.lite.OpsSet, sixteen)])
    conversion = convert(str(path))
    assert conversion.model.opset_imports[""] == 21
    assert "QuantizeLinear" in {node.op_type for node in conversion.model.graph}
    assert max(parity.max_abs for parity in conversion.parity) < 1e-4


def test_half_precision_weights(write: Write) -> None:
    conversion = convert(str(write("half", supported_types=[tf.float16])))
    assert max(parity.max_abs for parity in conversion.parity) < 1e-5


def test_tolerance_of_the_user_goes_before_steps(write: Write) -> None:
    from graphopt.errors import CheckFailed
    from graphopt.runtime.difference import Tolerance

    path = write("weights")
    with pytest.raises(CheckFailed, match="differs from the source framework"):
        convert(str(path), options=Options(tolerance=Tolerance(atol=1e-9)))


def test_same_source_gives_the_same_bytes(write: Write) -> None:
    first, second = (ir.to_proto(convert(str(write("float"))).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize("size", [8, 40, 1000, 3000])
def test_truncated_file_is_refused(write: Write, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.tflite"
    path.write_bytes(write("float").read_bytes()[:size])
    with pytest.raises(GraphoptError, match=r"short\.tflite: is a broken or truncated TFLite file"):
        convert(str(path))


def test_what_is_no_tflite_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(b"something else")
    with pytest.raises(GraphoptError, match="is no TFLite file"):
        convert(str(path), framework="tflite")


def test_unknown_signature_is_refused_with_those_there_are(write: Write) -> None:
    with pytest.raises(GraphoptError, match="has no signature 'train', but serving_default"):
        convert(str(write("float")), options=Options(signature="train"))


def test_real_file_of_mediapipe() -> None:
    """BlazeFace, where a wheel of mediapipe that still carries it can be imported from."""
    spec = importlib.util.find_spec("mediapipe")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    path = next((Path(item) / MEDIAPIPE for item in folders), Path(MEDIAPIPE))
    if not path.exists():
        pytest.skip(f"mediapipe with {MEDIAPIPE} is not on the path")
    conversion = convert(str(path))
    assert shapes(conversion.model) == {
        "input": [1, 128, 128, 3], "regressors": [1, 896, 16], "classificators": [1, 896, 1]
    }  # fmt: skip
    assert conversion.notes == ("axis 0 of input stays 1: the source fixes it",)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("embedding_model", ["batch", 76, 32, 1], ["batch", 1, 1, 96]),
        ("hey_rhasspy", [1, 16, 96], [1, 1]),
        ("okay_nabu", [1, 16, 96], [1, 1]),
    ],
)
def test_real_files_of_wake_words(name: str, given: list[int], found: list[int]) -> None:
    """Networks that hear a word in a stream of sound, as the package pyopen-wakeword ships them."""
    pytest.importorskip("pyopen_wakeword")
    models = importlib.resources.files("pyopen_wakeword") / "models"
    conversion = convert(str(models / f"{name}.tflite"))
    assert list(shapes(conversion.model).values()) == [given, found]
    assert all(parity.max_abs <= parity.bound for parity in conversion.parity)


def test_each_output_is_held_against_a_bound_of_its_own(tmp_path: Path) -> None:
    """A quantized head beside a float one: the steps of the first say nothing of the second."""
    image = keras.Input((4,), name="image")
    coarse = keras.layers.Dense(3, use_bias=False, name="coarse")(image)
    model = keras.Model(image, [coarse, keras.layers.Rescaling(1e-3, name="fine")(image)])
    model.export(tmp_path / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rows = np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float32)
    converter.representative_dataset = lambda: ([row] for row in rows)
    path = tmp_path / "two.tflite"
    path.write_bytes(converter.convert())
    conversion = convert(str(path))
    bounds = {parity.output: parity.bound for parity in conversion.parity}
    (coarse_step, fine_step) = sorted(bounds.values(), reverse=True)
    assert coarse_step > 100 * fine_step
    assert all(parity.max_abs <= parity.bound for parity in conversion.parity)
