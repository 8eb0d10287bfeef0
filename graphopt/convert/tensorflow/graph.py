"""A frozen graph: a GraphDef without variables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.convert.tensorflow.network import Input, Network, reason, sizes_of
from graphopt.convert.tensorflow.screen import screen_graph
from graphopt.convert.tensorflow.text import read_text
from graphopt.errors import GraphoptError

_ARROW = "->"
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
_NO_RESULTS = ("Const", "NoOp", "Placeholder", "PlaceholderWithDefault", "Assert", "Exit")

_LEFT_BY_LOOPS = "unused_control_flow_input"
"""How the placeholders are called that TensorFlow leaves where it freezes control flow."""


def open_graph(path: Path, signature: str | None, *, is_text: bool = False) -> Network:
    """Read a GraphDef, and find what goes in and what comes out.

    Args:
        path: The file.
        signature: `inputs -> outputs`, names of nodes, joined by commas, either side free to be
            empty: inputs are then the placeholders, outputs the nodes that no other node reads.
        is_text: It is in protobuf's text format.

    Raises:
        GraphoptError: It cannot be read, is not frozen, or has no such nodes.
    """
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    if is_text:
        read_text(path, graph)
    else:
        try:
            graph.ParseFromString(path.read_bytes())
        except Exception as error:
            # protobuf's DecodeError differs between its implementations.
            raise GraphoptError("is a broken or truncated GraphDef", file=path) from error
    screen_graph(graph, path)
    _refuse_variables(graph, path)
    asked_inputs, asked_outputs = _asked(signature, path)
    nodes = {node.name: node for node in graph.node}
    inputs = asked_inputs or _placeholders(graph)
    outputs = asked_outputs or _unread(graph)
    for name in (*inputs, *outputs):
        if name.partition(":")[0] not in nodes:
            raise GraphoptError(
                f"has no node {name}",
                file=path,
                fix=f"found: --signature '{', '.join(_placeholders(graph))} {_ARROW}"
                f" {', '.join(_unread(graph))}'",
            )
    if not outputs:
        raise GraphoptError(
            "shows no outputs: every node is read by another",
            file=path,
            fix=f"name them with --signature '{_ARROW} NODE, ...'",
        )
    return _network(path, graph, inputs, outputs)


def _network(path: Path, graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Network:
    import tensorflow as tf

    def load() -> None:
        tf.graph_util.import_graph_def(graph, name="")

    try:
        whole = tf.compat.v1.wrap_function(load, [])
        tensors = [whole.graph.as_graph_element(_tensor(name)) for name in inputs]
        function = whole.prune(
            feeds=tensors,
            fetches=[whole.graph.as_graph_element(_tensor(name)) for name in outputs],
        )
    except Exception as error:
        # TensorFlow raises its own errors where nodes do not fit.
        raise GraphoptError(f"cannot be loaded: {reason(error)}", file=path) from error

    def call(*values: Any) -> list[Any]:
        found = function(*values)
        return list(found) if isinstance(found, (list, tuple)) else [found]

    return Network(
        str(path),
        call,
        tuple(
            Input(_shown(name), tensor.dtype, sizes_of(tensor.shape))
            for name, tensor in zip(inputs, tensors, strict=True)
        ),
        tuple(_shown(name) for name in outputs),
        function,
        advice=_advice(graph),
    )


def _asked(signature: str | None, path: Path) -> tuple[list[str], list[str]]:
    if signature is None:
        return [], []
    before, arrow, after = signature.partition(_ARROW)
    if not arrow:
        raise GraphoptError(
            f"a frozen graph has no signature called {signature!r}",
            file=path,
            fix=f"name its nodes: --signature 'image, mask {_ARROW} logits'",
        )
    left, right = (
        [name.strip() for name in side.split(",") if name.strip()] for side in (before, after)
    )
    return left, right


def _refuse_variables(graph: Any, path: Path) -> None:
    for node in graph.node:
        if node.op in _VARIABLES:
            raise GraphoptError(
                f"is not frozen: {node.name} is a variable, whose values are elsewhere",
                file=path,
                fix="freeze the graph, or convert the SavedModel it belongs to",
            )


def _advice(graph: Any) -> str | None:
    loops = [node.name for node in graph.node if node.op == "LoopCond"]
    if not loops:
        return None
    return (
        f"the loop of {loops[0]} was taken apart when the graph was frozen: freeze it with"
        " convert_variables_to_constants_v2(function, lower_control_flow=False), or convert the"
        " SavedModel"
    )


def _placeholders(graph: Any) -> list[str]:
    read = _read(graph)
    return [
        node.name
        for node in graph.node
        if node.op == "Placeholder"
        and (node.name in read or not node.name.startswith(_LEFT_BY_LOOPS))
    ]


def _unread(graph: Any) -> list[str]:
    read = _read(graph)
    return [
        node.name for node in graph.node if node.name not in read and node.op not in _NO_RESULTS
    ]


def _read(graph: Any) -> set[str]:
    return {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _shown(name: str) -> str:
    """Call a node's first output by the node's name."""
    return name.removesuffix(":0").replace(":", "_")
