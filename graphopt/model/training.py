"""Training information: carried verbatim while the graph still holds what it refers to.

Source: TrainingInfoProto in onnx.proto. Its graphs read and bind names of the main graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.proto_graphs import proto_graphs

Signature = tuple[str, str]


def signatures(graph: ir.Graph, training: Sequence[onnx.TrainingInfoProto]) -> dict[str, Signature]:
    """Return type and shape of each value of a main graph that training information refers to."""
    wanted = {name for info in training for name in _referenced(info)}
    return {
        value.name: _signature(value)
        for value in _values(graph)
        if value.name is not None and value.name in wanted
    }


def check_training(graph: ir.Graph, expected: dict[str, Signature]) -> None:
    """Raise GraphoptError where a value that training information refers to is gone or changed."""
    if not expected:
        return
    present = {value.name: _signature(value) for value in _values(graph)}
    for name, signature in expected.items():
        now = present.get(name)
        if now != signature:
            became = "is gone" if now is None else f"is {' '.join(now)}, not {' '.join(signature)}"
            raise GraphoptError(
                f"its training_info refers to {name!r}, which {became}",
                fix="leave that value alone, or remove training_info before",
            )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _signature(value: ir.Value) -> Signature:
    tensor = value.const_value
    if tensor is not None:
        return tensor.dtype.name, str(list(tensor.shape))
    return str(value.type), str(value.shape)


def _referenced(info: onnx.TrainingInfoProto) -> Iterator[str]:
    for entry in (*info.initialization_binding, *info.update_binding):
        yield entry.key
        yield entry.value
    for root in (info.initialization, info.algorithm):
        for graph in proto_graphs(root):
            yield from (output.name for output in graph.output)
            for node in graph.node:
                yield from node.input
