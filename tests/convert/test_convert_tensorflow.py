from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from command_line import Ran
from converted_models import computed, shapes

from graphopt.convert import Options, convert, parse_shape
from graphopt.errors import GraphoptError

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

SIZES = (1, 3, 7)


pytestmark = pytest.mark.usefixtures("importable_sources")


def random(*shape: int) -> Any:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


class Digits(tf.Module):  # type: ignore[misc]  # tensorflow is untyped
    """A linear classifier of digits with two signatures."""

    def __init__(self) -> None:
        super().__init__()
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression

        pixels, labels = load_digits(return_X_y=True)
        fitted = LogisticRegression(max_iter=500).fit(pixels[:500] / 16, labels[:500])
        self.weight = tf.Variable(fitted.coef_.T.astype(np.float32))
        self.bias = tf.Variable(fitted.intercept_.astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 64], name="pixels")])
    def logits(self, pixels: Any) -> dict[str, Any]:
        scores = pixels @ self.weight + self.bias
        return {"logits": scores, "digit": tf.argmax(scores, -1)}

    @tf.function(
        input_signature=[tf.TensorSpec([None, 64], name="pixels"), tf.TensorSpec([], name="heat")]
    )
    def shares(self, pixels: Any, heat: Any) -> dict[str, Any]:
        return {"shares": tf.nn.softmax((pixels @ self.weight + self.bias) / heat)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Digits]:
    folder = tmp_path_factory.mktemp("saved") / "digits"
    module = Digits()
    signatures = {"logits": module.logits, "shares": module.shares}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder, module


def test_signature_is_chosen_by_name_and_names_the_interface(
    digits: tuple[Path, Digits],
) -> None:
    folder, module = digits
    conversion = convert(str(folder), options=Options(signature="shares"))
    assert shapes(conversion.model) == {
        "heat": [], "pixels": ["batch", 64], "shares": ["batch", 10]
    }  # fmt: skip
    assert {parity.sizes["batch"] for parity in conversion.parity} == {2, 3, 1}
    assert conversion.notes == ()
    for size in SIZES:
        pixels, heat = abs(random(size, 64)), np.array(2, np.float32)
        expected = module.shares(pixels, heat)["shares"].numpy()
        found = computed(conversion.model, pixels=pixels, heat=heat)["shares"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_several_outputs_keep_names_and_types(digits: tuple[Path, Digits]) -> None:
    folder, module = digits
    model = convert(str(folder / "saved_model.pb"), options=Options(signature="logits")).model
    pixels = abs(random(3, 64))
    found = computed(model, pixels=pixels)
    assert found.keys() == {"digit", "logits"}
    assert found["digit"].dtype == np.int64
    np.testing.assert_array_equal(found["digit"], module.logits(pixels)["digit"].numpy())


@pytest.mark.parametrize("signature", [None, "probabilities"])
def test_signatures_are_listed_where_none_is_chosen(
    digits: tuple[Path, Digits], signature: str | None
) -> None:
    with pytest.raises(GraphoptError, match="logits, shares; choose one with --signature"):
        convert(str(digits[0]), options=Options(signature=signature))


def test_default_signature_is_taken_and_said(tmp_path: Path) -> None:
    module = tf.Module()
    module.one = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([None], name="x")])
    module.two = tf.function(lambda x: x + 2, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.one, "two": module.two})
    conversion = convert(str(tmp_path))
    assert conversion.notes == ("converted the signature serving_default; --signature chooses two",)
    np.testing.assert_array_equal(
        computed(conversion.model, x=np.zeros(2, np.float32))["output_0"], [1, 1]
    )


def test_same_source_gives_the_same_bytes(digits: tuple[Path, Digits]) -> None:
    options = Options(signature="logits")
    first, second = (ir.to_proto(convert(str(digits[0]), options=options).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_opset_is_what_was_asked_for(digits: tuple[Path, Digits], opset: int) -> None:
    options = Options(signature="logits", opset=opset)
    assert convert(str(digits[0]), options=options).model.opset_imports[""] == opset


def test_opset_that_does_not_exist_is_refused(digits: tuple[Path, Digits]) -> None:
    with pytest.raises(GraphoptError, match="opset 999 is not one of 1 to"):
        convert(str(digits[0]), options=Options(signature="logits", opset=999))


def test_static_keeps_the_sizes_of_the_data(digits: tuple[Path, Digits], tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, pixels=np.ones((2, 64), np.float32))
    options = Options(signature="logits", static=True, data=str(data))
    assert shapes(convert(str(digits[0]), options=options).model)["pixels"] == [2, 64]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.ones((2, 63), np.float32)}, r"pixels has the shape \[2, 63\]"),
        ({"pixels": np.ones((2, 64))}, "pixels is float64, the model takes float32"),
        ({"image": np.ones((2, 64), np.float32)}, "has image; the model's inputs are pixels"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    digits: tuple[Path, Digits], tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, **arrays)
    with pytest.raises(GraphoptError, match=message):
        convert(str(digits[0]), options=Options(signature="logits", data=str(data)))


def test_broken_saved_models_are_refused(digits: tuple[Path, Digits], tmp_path: Path) -> None:
    content = (digits[0] / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(GraphoptError, match="broken or truncated SavedModel"):
        convert(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(GraphoptError, match="cannot be loaded"):
        convert(str(tmp_path), options=Options(signature="logits"))


def _written(target: str, x: Any) -> Any:
    tf.io.write_file(target, "gotcha")
    return x


def _printed(target: str, x: Any) -> Any:
    tf.print("gotcha", output_stream=f"file://{target}")
    return x


def _saved(target: str, x: Any) -> Any:
    tf.raw_ops.SaveV2(prefix=target, tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    return x


@pytest.mark.parametrize(
    ("reach", "operator"), [(_written, "WriteFile"), (_printed, "PrintV2"), (_saved, "SaveV2")]
)
def test_operator_that_reaches_outside_is_refused(
    tmp_path: Path, reach: Any, operator: str
) -> None:
    target = tmp_path / "written"
    module = tf.Module()

    def write(x: Any) -> Any:
        return reach(str(target), x)

    module.f = tf.function(write, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path / "m"), {"serving_default": module.f})
    target.unlink(missing_ok=True)
    with pytest.raises(GraphoptError, match=f"has the operator {operator}"):
        convert(str(tmp_path / "m"))
    assert not list(tmp_path.glob("written*"))


def test_control_flow_of_a_function() -> None:
    conversion = convert("tensorflow_networks:loop", framework="tensorflow")
    assert {"Loop", "If"} <= {node.op_type for node in conversion.model.graph}
    import tensorflow_networks as networks

    for sign in (1, -50):
        x, n = sign * abs(random(5, 4)), np.array(3, np.int32)
        found = computed(conversion.model, x=x, n=n)["y"]
        np.testing.assert_allclose(found, networks.loop(x, n)["y"].numpy(), rtol=1e-5, atol=1e-5)


def test_function_with_examples_and_nested_inputs() -> None:
    model = convert("tensorflow_networks:product_with_examples", framework="tensorflow").model
    assert shapes(model) == {
        "a": ["batch", 3], "b_inner": ["batch", 3], "output_0": ["batch", 3]
    }  # fmt: skip
    assert model.graph.inputs[0].dtype == ir.DataType.DOUBLE


def test_types_and_a_fixed_batch_are_kept_and_said() -> None:
    conversion = convert("tensorflow_networks:fixed_half", framework="tensorflow")
    assert [str(value.dtype) for value in conversion.model.graph.outputs] == [
        "FLOAT16", "DOUBLE", "BOOL"
    ]  # fmt: skip
    assert conversion.notes == ("axis 0 of x stays 3: the source fixes it",)


def test_choice_between_infinite_and_finite_makes_no_nan() -> None:
    model = convert("tensorflow_networks:masked", framework="tensorflow").model
    found = computed(model, x=np.array([[0, -1, 1, 2]], np.float32))["output_0"]
    np.testing.assert_allclose(found, [[0, 0, 0, np.log(2)]], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unsupported", r"no ONNX operators for Svd \(at .*Svd\)"),
        ("product", "a tf.function without an input_signature"),
        ("any_rank", "does not say how many dimensions the input x has"),
        ("number", "returns int"),
    ],
)
def test_functions_that_cannot_be_converted(name: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        convert(f"tensorflow_networks:{name}", framework="tensorflow")


def test_rank_can_be_told() -> None:
    options = Options(dynamic_shapes=dict([parse_shape("x[rows, 3]")]))
    model = convert("tensorflow_networks:any_rank", framework="tensorflow", options=options).model
    assert shapes(model) == {"x": ["rows", 3], "output_0": ["rows", 3]}


def test_nothing_but_the_result_is_on_the_terminal(
    graphopt: Callable[..., Ran],
    digits: tuple[Path, Digits],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.onnx"
    done = graphopt("convert", str(digits[0]), "--signature", "logits", "-o", str(out))
    assert (done.code, done.err) == (0, "")
    assert capfd.readouterr().err == ""
    done = graphopt("convert", str(digits[0]), "-o", str(tmp_path / "none.onnx"))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "none.onnx").exists()
