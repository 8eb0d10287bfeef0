"""Layers of Keras that tf2onnx by itself does not convert, and those that cannot be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")


def saved(path: Path, *layers: Any) -> Any:
    model = keras.Sequential(layers)
    model.save(path)
    return model


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (
            lambda: keras.layers.Discretization(bin_boundaries=[-1.0, 0.0, 2.0]),
            np.array([[-2, -1, 0], [1.9, 2, 9]], np.float32),
        ),
        (
            lambda: keras.layers.IntegerLookup(vocabulary=[3, 5, -9]),
            np.array([[3, 5, -9], [4, -1, 0]], np.int64),
        ),
        (
            lambda: keras.layers.IntegerLookup(vocabulary=[3, 5], num_oov_indices=0, invert=True),
            np.array([[0, 1, 2], [2, 1, 1]], np.int64),
        ),
        (
            lambda: keras.layers.Activation("celu"),
            np.array([[-50, -1e-5, 0], [1e-5, 1, 50]], np.float32),
        ),
    ],
)
def test_layer_of_a_few_operators(tmp_path: Path, layer: Any, values: Any) -> None:
    path = tmp_path / "model.keras"
    model = saved(path, keras.Input((3,), dtype=str(values.dtype)), layer())
    proto = ir.to_proto(convert(str(path)).model)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: values})
    expected = np.asarray(model(values))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_layer_without_operators_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    saved(path, keras.Input((3,), dtype="int64"), keras.layers.Hashing(7, name="buckets"))
    with pytest.raises(GraphoptError, match=r"for StringToHashBucketFast \(at .*/buckets"):
        convert(str(path))


def test_layer_with_a_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    memory = keras.layers.LSTM(3, stateful=True, name="memory")
    saved(path, keras.Input((4, 3), batch_size=2), memory)
    with pytest.raises(GraphoptError, match=r"layer memory \(LSTM\) is stateful"):
        convert(str(path))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_layer_that_cannot_be_made_is_named_without_its_config(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    saved(path, keras.Input((4,)), keras.layers.Dense(3, name="scores"))
    _add_argument(path)
    with pytest.raises(GraphoptError) as caught:
        convert(str(path))
    assert caught.value.cause.endswith(
        "cannot load it: Dense 'scores': Unrecognized keyword arguments passed to Dense:"
        " {'nonsense': 7}"
    )


def _add_argument(path: Path) -> None:
    if path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"]["nonsense"] = 7
            file.attrs["model_config"] = json.dumps(config)
        return
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    config["config"]["layers"][1]["config"]["nonsense"] = 7
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (content | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, data)


def images_with(*, groups: bool, gates: bool) -> Any:
    """A network over images whose channels are normalized in groups, or weighed by gates."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(
        image
    )
    if groups:
        x = layers.GroupNormalization(2, gamma_initializer="he_normal")(x)
    if gates:
        gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
        x = x * layers.Reshape((1, 1, 8))(gate)
    pooled = layers.AveragePooling2D(2)(x)
    return keras.Model(image, [layers.GlobalMaxPooling2D()(x), pooled])


@pytest.mark.parametrize(
    "parts", [{"groups": True}, {"gates": True}, {"groups": True, "gates": True}]
)
def test_no_transpose_stands_between_channels_first(tmp_path: Path, parts: dict[str, bool]) -> None:
    keras.utils.set_random_seed(0)
    model = images_with(**{"groups": False, "gates": False, **parts})
    path = tmp_path / "model.keras"
    model.save(path)
    converted = convert(str(path), options=Options(layout="nchw")).model
    assert "Transpose" not in {node.op_type for node in converted.graph}
    session = onnxruntime.InferenceSession(
        ir.to_proto(converted).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    peaks, pooled = session.run(None, {"image": np.ascontiguousarray(image.transpose(0, 3, 1, 2))})
    expected = model(image, training=False)
    np.testing.assert_allclose(peaks, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pooled.transpose(0, 2, 3, 1), expected[1], rtol=1e-4, atol=1e-5)
