"""Frozen graphs of TensorFlow, in binary and as text."""

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


def written(path: Path, function: Any, *, taken_apart: bool = True) -> Path:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(), lower_control_flow=taken_apart
    )
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    return path


def scores(pixels: Any) -> Any:
    weight = np.random.default_rng(7).normal(size=(64, 10)).astype(np.float32)
    values = pixels @ weight
    return {"logits": values, "digit": tf.argmax(values, -1)}


def random(*shape: int) -> Any:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    function = tf.function(scores, input_signature=[tf.TensorSpec([None, 64], name="pixels")])
    return written(tmp_path_factory.mktemp("frozen") / "graph.pb", function)


def test_inputs_and_outputs_of_a_frozen_graph_are_found(frozen: Path) -> None:
    model = convert(str(frozen)).model
    (pixels,) = model.graph.inputs
    assert (pixels.name, str(pixels.shape)) == ("pixels", "[batch,64]")
    assert len(model.graph.outputs) == 2
    for size in (1, 3, 7):
        feed = random(size, 64)
        expected = scores(feed)
        found = {value.dtype: value for value in computed(model, pixels=feed).values()}
        np.testing.assert_array_equal(found[np.dtype("int64")], expected["digit"].numpy())
        np.testing.assert_allclose(
            found[np.dtype("float32")], expected["logits"], rtol=1e-5, atol=1e-5
        )


def test_nodes_of_a_frozen_graph_are_asked_for_by_name(frozen: Path) -> None:
    model = convert(str(frozen), options=Options(signature="pixels -> ArgMax")).model
    values = [*model.graph.inputs, *model.graph.outputs]
    assert [value.name for value in values] == ["pixels", "ArgMax"]
    assert [str(value.shape) for value in values] == ["[batch,64]", "[batch]"]
    with pytest.raises(GraphoptError, match="has no node logits; found: --signature 'pixels -> "):
        convert(str(frozen), options=Options(signature="-> logits"))


def test_truncated_graph_is_refused(frozen: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(frozen.read_bytes()[:-300])
    with pytest.raises(GraphoptError, match="broken or truncated GraphDef"):
        convert(str(path))


@pytest.mark.parametrize("comment", ["", "# a frozen graph\n\n"])
def test_frozen_graph_as_text(frozen: Path, tmp_path: Path, comment: str) -> None:
    from google.protobuf import text_format

    graph = tf.compat.v1.GraphDef.FromString(frozen.read_bytes())
    path = tmp_path / "graph.pbtxt"
    path.write_text(comment + text_format.MessageToString(graph))
    found, expected = convert(str(path)).model, convert(str(frozen)).model
    assert ir.to_proto(found) == ir.to_proto(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('node { name: "x" op: "Placeholder" nothing: 1 }', "no field named"),
        ('node { name: "x" op: ', "text format"),
        ('node { name: "x" op: "\\377\\376" }', "text format"),
        ('node { name: "x" attr { key: "f" value { ' + "func { attr { value { " * 2000, "too deep"),
    ],
)
def test_broken_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "graph.pbtxt"
    path.write_text(text)
    with pytest.raises(GraphoptError, match=message):
        convert(str(path))


def test_long_text_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.pbtxt"
    with path.open("wb") as file:
        file.write(b'node { name: "x" op: "NoOp" }')
        file.truncate((64 << 20) + 1)
    with pytest.raises(GraphoptError, match=r"bytes of text.*as_text=False"):
        convert(str(path))


def _repeated(x: Any) -> Any:
    total = tf.zeros_like(x[:, 0])
    for step in tf.range(tf.shape(x)[1]):
        total = tf.tanh(x[:, step] + total)
    return total


@pytest.mark.parametrize("taken_apart", [False, True])
def test_frozen_graph_with_a_loop(tmp_path: Path, taken_apart: bool) -> None:
    function = tf.function(_repeated, input_signature=[tf.TensorSpec([None, None], name="x")])
    path = written(tmp_path / "graph.pb", function, taken_apart=taken_apart)
    if taken_apart:
        # tf2onnx joins no loop again that inlined bodies.
        with pytest.raises(GraphoptError, match=r"loop of .*LoopCond.*lower_control_flow=False"):
            convert(str(path))
        return
    model = convert(str(path)).model
    assert [value.name for value in model.graph.inputs] == ["x"]
    x = random(3, 5)
    np.testing.assert_allclose(computed(model, x=x)["Identity"], _repeated(x), rtol=1e-5, atol=1e-6)
