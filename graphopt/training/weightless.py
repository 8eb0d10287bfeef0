"""A prepared model without its weights, which copies of a module share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.training.execution import Plan


class Weightless:
    """A prepared model whose initializers are inputs.

    It never changes: a copy is the same object, and a pickle of it holds ONNX's own bytes.

    Args:
        model: What `graphopt.training.prepare.prepared` returns; its initializers are turned into
            inputs, in place.
    """

    def __init__(self, model: ir.Model) -> None:
        graph = model.graph
        held = list(graph.initializers.values())
        graph.initializers.clear()
        for value in held:
            value.const_value = None
            if not value.is_graph_input():
                graph.inputs.append(value)
        self.model = model
        self.plan = Plan(model)

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    def __deepcopy__(self, memo: dict[int, Any]) -> Weightless:
        return self

    def __reduce__(self) -> tuple[Callable[[bytes], Weightless], tuple[bytes]]:
        return _read, (ir.to_proto(self.model).SerializeToString(),)


def _read(content: bytes) -> Weightless:
    return Weightless(ir.from_proto(onnx.ModelProto.FromString(content)))
