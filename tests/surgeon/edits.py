"""Functions of a gs.Graph that the surgeon's tests name as `edits:...`."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def nothing(graph: gs.Graph) -> None:
    pass


def drop_identities(graph: gs.Graph) -> gs.Graph:
    for node in [node for node in graph.nodes if node.op == "Identity"]:
        if node.outputs[0] in graph.outputs:
            continue
        for consumer in list(node.outputs[0].outputs):
            consumer.inputs = [
                node.inputs[0] if value is node.outputs[0] else value for value in consumer.inputs
            ]
        node.outputs.clear()
    return graph.cleanup().toposort()


def double_w(graph: gs.Graph) -> None:
    graph.tensors()["w"].values *= 2


def read_all(graph: gs.Graph) -> None:
    for value in graph.tensors().values():
        if isinstance(value, gs.Constant):
            assert np.isfinite(value.values.astype(np.float64)).all()


def append_scale_first(graph: gs.Graph) -> None:
    """Scale the only output; the new node stands first, where it cannot run."""
    output = graph.outputs[0]
    scaled = gs.Variable("scaled", dtype=output.dtype, shape=output.shape)
    factor = gs.Constant("factor", np.array([3], np.float32))
    graph.nodes.insert(0, gs.Node("Mul", "scale", inputs=[output, factor], outputs=[scaled]))
    graph.outputs = [scaled]


def share_values(graph: gs.Graph) -> None:
    w = graph.tensors()["w"]
    graph.tensors()["twin"].values = w._values


def rename_constant(graph: gs.Graph) -> None:
    graph.tensors()["w"].name = "weight"


def fails(graph: gs.Graph) -> None:
    raise KeyError("no such node")


def returns_a_number(graph: gs.Graph) -> int:
    return 3


def breaks(graph: gs.Graph) -> None:
    graph.inputs[0].dtype = None


number = 3
