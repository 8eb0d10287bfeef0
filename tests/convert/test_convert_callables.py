"""Which framework a callable is of, where nobody says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.convert import convert
from graphopt.convert.built import build, recognised
from graphopt.errors import GraphoptError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _modules_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in ("built_models", "tensorflow_networks", "jax_functions"):
        sys.modules.pop(name, None)


def framework(name: str) -> str:
    with recognised(f"built_models:{name}", "the default") as found:
        return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch_network", "torch"),
        ("keras_on_torch", "keras"),
        ("tf_function", "tensorflow"),
        ("jitted", "jax"),
        ("flax_module", "jax"),
        ("function_with_examples_of_jax", "jax"),
        ("unknown", "the default"),
        ("with_parameters", "the default"),
    ],
)
def test_the_class_of_what_is_returned_tells(name: str, expected: str) -> None:
    assert framework(name) == expected


def test_it_is_made_once_and_only_for_that_conversion() -> None:
    with recognised("built_models:unknown", "torch"):
        import built_models

        first = build("built_models:unknown")
        assert build("built_models:unknown") is first
        assert built_models.CALLS == ["unknown"]
    assert build("built_models:unknown") is not first


def test_a_function_with_parameters_is_not_called() -> None:
    framework("with_parameters")
    import built_models

    assert built_models.CALLS == []


def test_what_it_raises_is_one_line() -> None:
    with pytest.raises(GraphoptError, match=r"^built_models:failing: fails: ValueError: no weig"):
        convert("built_models:failing")


def test_a_function_of_tensorflow_is_recognised() -> None:
    pytest.importorskip("tf2onnx")
    source = "tensorflow_networks:loop"
    assert [value.name for value in convert(source).model.graph.outputs] == ["y"]


def test_a_model_of_keras_is_recognised() -> None:
    pytest.importorskip("tf2onnx")
    source = "tensorflow_networks:two_inputs"
    assert [value.name for value in convert(source).model.graph.inputs] == ["image", "extra"]


def test_a_plain_function_of_jax_is_recognised() -> None:
    pytest.importorskip("jax2onnx")
    assert [value.name for value in convert("jax_functions:plain").model.graph.inputs] == ["x", "w"]
