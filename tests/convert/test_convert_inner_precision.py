"""What outputs may differ by whose own type and size say too little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.convert import Options, convert
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.runtime.difference import Tolerance

EPS = 2.0**-23
X = np.array([[1, 2, -4]], np.float32)


def model_of(body: str, *, inputs: str = "float[1, 3] x") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 9, opset_import: ["" : 18]> g ({inputs}) => (float[1, 3] y) {{ {body} }}'
    )


def allowed(model: ir.Model, output: Any, **options: Any) -> Mapping[str, Tolerance]:
    return inner_tolerances(model, [X], lambda _: [output], Options(), **options)


def test_the_default_is_left_to_what_it_fits() -> None:
    assert allowed(model_of("y = Tanh(x)"), X) == {}
    assert allowed(model_of("y = Sigmoid(x)"), np.full((1, 3), 0.5, np.float32)) == {}


def test_a_tiny_sigmoid_is_exact_to_an_eps_of_1() -> None:
    tiny = np.full((1, 3), 1e-9, np.float32)
    moved = "s = Sigmoid(x) k = Constant <value_ints = [1, 3]> () y = Reshape(s, k)"
    for body in ("y = Sigmoid(x)", moved):
        assert allowed(model_of(body), tiny)["y"].atol == EPS
    assert allowed(model_of("s = Sigmoid(x) y = Mul(s, s)"), tiny) == {}


def test_computation_in_a_narrow_type_counts() -> None:
    narrow = model_of("h = Cast <to = 10> (x) d = Add(h, h) y = Cast <to = 1> (d)")
    # 16 eps of float16, of the largest element.
    assert allowed(narrow, X)["y"].atol == pytest.approx(16 * 2.0**-10 * 4)
    brain = model_of("h = Cast <to = 16> (x) y = Cast <to = 1> (h)")
    assert allowed(brain, X)["y"].atol == pytest.approx(4 * 2.0**-7 * 4)


def test_weights_in_a_narrow_type_are_exact() -> None:
    weights = model_of(
        "w = Constant <value_floats = [0.5, 1.5, 2.5]> () h = Cast <to = 10> (w)"
        " f = Cast <to = 1> (h) y = Mul(x, f)"
    )
    assert allowed(weights, X) == {}


def test_a_narrow_computation_of_another_output_does_not_count() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[1, 3] x)'
        " => (float[1, 3] y, float16[1, 3] z) { y = Neg(x) h = Cast <to = 10> (x) z = Add(h, h) }"
    )
    reference = [X, X.astype(np.float16)]
    assert inner_tolerances(model, [X], lambda _: reference, Options()) == {}


def test_what_another_order_moves_counts_twice() -> None:
    model = model_of("y = Neg(x)")
    slightly, far = X + np.float32(1e-6), X + np.float32(0.25)
    assert allowed(model, X, reordered=lambda _: [slightly]) == {}
    assert allowed(model, X, reordered=lambda _: [far])["y"].atol == 0.5


def test_what_the_user_allows_is_all_that_counts() -> None:
    options = Options(tolerance=Tolerance(atol=1e-9))
    tiny = np.full((1, 3), 1e-9, np.float32)
    found = inner_tolerances(model_of("y = Sigmoid(x)"), [X], lambda _: [tiny], options)
    assert found == {}


def test_mixed_precision_of_keras_is_converted(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    pytest.importorskip("tf2onnx")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    policy = keras.DTypePolicy("mixed_float16")
    hidden = layers.Dense(8, activation="relu", dtype=policy)
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(2, dtype="float32")])
    model.save(tmp_path / "mixed.keras")

    conversion = convert(str(tmp_path / "mixed.keras"), framework="keras")

    assert {item.sizes["batch"] for item in conversion.parity} == {1, 2, 3}
    # Half precision is not taken for more than it is: the difference is of its size.
    assert max(item.max_abs for item in conversion.parity) < 2.0**-10


def test_tiny_sigmoid_of_tflite_is_converted(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
    def score(x: Any) -> Any:
        return tf.sigmoid(tf.reduce_sum(x, axis=1) * 0.1 - 17.0)

    concrete = score.get_concrete_function()
    path = tmp_path / "score.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())

    (parity,) = convert(str(path), framework="tflite").parity

    assert parity.bound == EPS
