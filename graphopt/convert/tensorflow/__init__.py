"""From TensorFlow: SavedModels, frozen graphs and functions, through tf2onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.callables import is_callable_spec
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import require
from graphopt.convert.tensorflow.files import Kind, kind_of, saved_model_folder
from graphopt.convert.tensorflow.network import Network
from graphopt.convert.tensorflow.quiet import quiet
from graphopt.errors import GraphoptError


def recognises(path: Path) -> bool:
    """Whether a folder holds a SavedModel, or a file a GraphDef; TensorFlow is not imported."""
    return kind_of(path) is not None


def convert(source: str, options: Options) -> Conversion:
    """Convert a SavedModel folder, a frozen graph, or what `module:callable` is or returns.

    Args:
        source: A folder with `saved_model.pb` or `.pbtxt`; a GraphDef, in binary or as text; or a
            `tf.function`, or a function that returns one, or `(function, example_inputs)`.
        options: What to ask for. `signature` is the name of a SavedModel's signature; of a frozen
            graph, `inputs -> outputs` by the names of their nodes.

    Raises:
        GraphoptError: It cannot be read or exported.
        CheckFailed: ONNX Runtime computes something else than TensorFlow on the example inputs.
    """
    require(["tensorflow", "tf2onnx"], "tensorflow", "TensorFlow with tf2onnx")
    with quiet():
        from graphopt.convert.tensorflow.export import convert_network

        network, notes = _opened(source, options)
        return convert_network(network, options, notes)


def _opened(source: str, options: Options) -> tuple[Network, Sequence[str]]:
    path = Path(source)
    if not path.exists() and is_callable_spec(source):
        from graphopt.convert.tensorflow.callable import open_callable

        return open_callable(source), ()
    if not path.exists():
        raise GraphoptError("no such file", file=source)
    kind = kind_of(path)
    if kind is Kind.SAVED_MODEL:
        from graphopt.convert.tensorflow.saved_model import open_saved_model

        return open_saved_model(saved_model_folder(path), options.signature)
    if kind in {Kind.GRAPH, Kind.GRAPH_TEXT}:
        from graphopt.convert.tensorflow.graph import open_graph

        is_text = kind is Kind.GRAPH_TEXT
        return open_graph(path, options.signature, is_text=is_text), ()
    raise GraphoptError(
        "is no SavedModel folder and no GraphDef",
        file=path,
        fix="give the folder that holds saved_model.pb, a frozen .pb or .pbtxt, or module:callable",
    )
