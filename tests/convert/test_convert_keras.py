from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from converted_models import computed, shapes

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

SIZES = (1, 3, 7)


pytestmark = pytest.mark.usefixtures("importable_sources")


def random(*shape: int) -> Any:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def digits() -> Any:
    """A convolutional network trained on digits, with data for it."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = (data.data / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.Flatten()(layers.MaxPooling2D()(layers.BatchNormalization()(x)))
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(pixels, data.target, epochs=4, verbose=0)
    return model, pixels


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_file_keeps_names_and_predictions(digits: Any, tmp_path: Path, suffix: str) -> None:
    model, pixels = digits
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    renamed = path.rename(tmp_path / "model.bin")
    conversion = convert(str(renamed if suffix == "h5" else renamed.rename(path)))
    assert shapes(conversion.model) == {"image": ["batch", 8, 8, 1], "digit": ["batch", 10]}
    assert [parity.sizes["batch"] for parity in conversion.parity] == [2, 3, 1]
    for size in SIZES:
        found = computed(conversion.model, image=pixels[:size])["digit"]
        near(found, model(pixels[:size], training=False))


def test_same_file_gives_the_same_bytes(digits: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    digits[0].save(path)
    first, second = (ir.to_proto(convert(str(path)).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    code = (
        "import sys, hashlib, onnx_ir as ir; from graphopt.convert import convert;"
        "print(hashlib.sha256(ir.to_proto(convert(sys.argv[1]).model).SerializeToString())"
        ".hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_channels_come_first_and_transposes_go(tmp_path: Path) -> None:
    import tensorflow_networks as networks

    model = networks.images()
    path = tmp_path / "images.keras"
    model.save(path)
    conversion = convert(str(path), options=Options(layout="nchw"))
    assert shapes(conversion.model) == {"image": ["batch", 3, 8, 8], "map": ["batch", 2, 4, 4]}
    assert "Transpose" not in {node.op_type for node in conversion.model.graph}
    x = random(3, 8, 8, 3)
    found = computed(conversion.model, image=np.ascontiguousarray(x.transpose(0, 3, 1, 2)))["map"]
    near(found.transpose(0, 2, 3, 1), model(x, training=False))


def test_two_inputs_and_two_outputs_of_a_function() -> None:
    import tensorflow_networks as networks

    conversion = convert("tensorflow_networks:two_inputs", framework="keras")
    assert list(shapes(conversion.model)) == ["image", "extra", "shares", "score"]
    model = networks.two_inputs()
    for size in SIZES:
        image, extra = random(size, 8, 8, 1), random(size, 3)
        found = computed(conversion.model, image=image, extra=extra)
        shares, score = model([image, extra])
        near(found["shares"], shares)
        near(found["score"], score)


def test_lstm_over_a_sequence_of_any_length() -> None:
    import tensorflow_networks as networks

    conversion = convert("tensorflow_networks:recurrent", framework="keras")
    assert shapes(conversion.model)["steps"] == ["batch", "steps_dim_1", 4]
    assert "LSTM" in {node.op_type for node in conversion.model.graph}
    assert len({tuple(parity.sizes.items()) for parity in conversion.parity}) == 3
    for size, length in ((1, 9), (3, 2), (7, 1)):
        steps = random(size, length, 4)
        near(computed(conversion.model, steps=steps)["out"], networks.recurrent()(steps))


def test_sequence_can_be_named() -> None:
    options = Options(dynamic_shapes={"steps": ("batch", "time", 4)})
    conversion = convert("tensorflow_networks:recurrent", framework="keras", options=options)
    assert shapes(conversion.model)["steps"] == ["batch", "time", 4]


def test_subclassed_model_with_examples_and_a_dict_of_outputs() -> None:
    import tensorflow_networks as networks

    conversion = convert("tensorflow_networks:subclassed", framework="keras")
    assert shapes(conversion.model) == {
        "features": ["batch", 5], "ids": ["batch"], "ids_again": ["batch"], "sum": ["batch", 3]
    }  # fmt: skip
    assert "Dropout" not in {node.op_type for node in conversion.model.graph}
    model, _ = networks.subclassed()
    features, ids = random(7, 5), np.arange(7) % 5
    expected = model(features, ids)["sum"]
    near(computed(conversion.model, features=features, ids=ids)["sum"], expected)


def test_model_that_was_never_called_needs_examples() -> None:
    with pytest.raises(GraphoptError, match=r"does not say what it takes; return \(model, exam"):
        convert("tensorflow_networks:never_called", framework="keras")


def test_weights_go_into_the_model_of_a_function(tmp_path: Path) -> None:
    import tensorflow_networks as networks

    model = networks.exact_weights()
    model.set_weights([array + 1 for array in model.get_weights()])
    path = tmp_path / "some.weights.h5"
    model.save_weights(path)
    with pytest.raises(GraphoptError, match="holds weights and no network; name a function"):
        convert(str(path))
    conversion = convert(str(path), options=Options(model="tensorflow_networks:exact_weights"))
    x = random(3, 4)
    near(computed(conversion.model, x=x)["y"], model(x))
    with pytest.raises(GraphoptError, match="its weights do not fit the model"):
        convert(str(path), options=Options(model="tensorflow_networks:recurrent"))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_file_with_a_lambda_is_refused(tmp_path: Path, suffix: str) -> None:
    layers = keras.layers
    x = keras.Input((3,))
    model = keras.Model(x, layers.Lambda(lambda value: value * 2)(layers.Dense(2)(x)))
    path = tmp_path / f"code.{suffix}"
    model.save(path)
    with pytest.raises(GraphoptError, match="holds a Lambda layer, whose code would run; where"):
        convert(str(path))


def test_file_with_a_class_of_its_author_is_refused(tmp_path: Path) -> None:
    import tensorflow_networks as networks

    model, examples = networks.subclassed()
    model(*examples)
    path = tmp_path / "own.keras"
    model.save(path)
    with pytest.raises(GraphoptError, match=r"needs the class tensorflow_networks\.Subclassed"):
        convert(str(path))


@pytest.mark.parametrize("module", ["antigravity", "keras_antigravity.layers"])
def test_module_named_in_a_file_is_not_imported(digits: Any, tmp_path: Path, module: str) -> None:
    path, changed = tmp_path / "model.keras", tmp_path / "changed.keras"
    digits[0].save(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1]["module"] = module
                content = json.dumps(config).encode()
            new.writestr(name, content)
    with pytest.raises(GraphoptError, match=rf"needs the class {module}\.Conv2D"):
        convert(str(changed))
    assert module not in sys.modules


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_truncated_file_is_refused(digits: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    digits[0].save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(GraphoptError, match="broken or truncated"):
        convert(str(path), framework="keras")


def test_importing_graphopt_imports_no_framework() -> None:
    code = (
        "import sys, graphopt.convert.keras, graphopt.convert.tensorflow, graphopt.convert.tflite;"
        "print({'tensorflow', 'keras', 'tf2onnx', 'h5py', 'jax', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
