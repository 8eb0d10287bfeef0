"""Where new constants and nodes go, in any kind of scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import add_constant
from graphopt.rewrite.names import Names


@dataclass
class Builder:
    """Puts constants and nodes in front of a node.

    Args:
        model: Whose names must not be taken twice.
        scope: Where the node stands.
        before: The node.
        base: What new names start with.
    """

    model: ir.Model
    scope: Scope
    before: ir.Node
    base: str

    def constant(self, suffix: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant."""
        name = Names.of(self.model).fresh(f"{self.base}_{suffix}")
        tensor.name = name
        in_function = self.scope.function is not None
        return add_constant(self.before, name, tensor, in_function=in_function)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        dtype: ir.DataType,
        attributes: Sequence[ir.Attr] = (),
        *,
        domain: str = "",
    ) -> ir.Value:
        """Add a node with one output, and return that."""
        name = Names.of(self.model).fresh(f"{self.base}_{suffix}")
        output = ir.Value(name=name, type=ir.TensorType(dtype))
        node = ir.Node(domain, op_type, inputs, attributes, outputs=[output], name=name)
        graph = self.before.graph
        if graph is None:
            raise ValueError(f"{self.before.name!r} is in no graph")
        graph.insert_before(self.before, node)
        return output

    def cast(self, value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Value:
        """Add a Cast."""
        return self.node("Cast", [value], suffix, dtype, [ir.AttrInt64("to", int(dtype))])


def behind(value: ir.Value) -> ir.Node:
    """Return the first node of a graph that may read what is put in front of it.

    Args:
        value: A constant of the graph.
    """
    graph, producer = value.graph, value.producer()
    if producer is not None:
        return producer
    if graph is None:
        raise ValueError(f"{value.name!r} is in no graph")
    return graph[0]
