"""The scopes of a model: its main graph, the bodies of control flow, its functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Scope:
    """One list of nodes with its own values.

    Args:
        name: Empty for the main graph; `If_3/then_branch` for a body (the name of the node, else
            its operator and position, and the attribute); `domain:Name` for a function, with
            `:overload` behind it where there is one.
        graph: The nodes, inputs, outputs and initializers. A function's graph has no initializers.
        owner: The node whose body this is; None for the main graph and for functions.
        function: The function this belongs to, also for bodies inside one.
    """

    name: str
    graph: ir.Graph
    owner: ir.Node | None = None
    function: ir.Function | None = None

    def at(self, name: str | None) -> str:
        """Address a node or value of this scope, as `Rewrite.at` wants it."""
        return f"{self.name}/{name or '?'}" if self.name else name or "?"


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Yield every scope of a model, an outer one before the bodies inside it.

    The walk reads the model as it goes: finish it before editing nodes, or take a list.
    """
    yield from _with_bodies(Scope("", model.graph))
    for function in model.functions.values():
        name = ":".join(part for part in function.identifier() if part)
        yield from _with_bodies(Scope(name, function.graph, function=function))


def _with_bodies(scope: Scope) -> Iterator[Scope]:
    pending = [scope]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(_bodies(current))))


def _bodies(scope: Scope) -> Iterator[Scope]:
    for position, node in enumerate(scope.graph):
        for attribute in node.attributes.values():
            for index, body in enumerate(_graphs_of(attribute)):
                path = f"{node.name or f'{node.op_type}_{position}'}/{attribute.name}"
                if attribute.type == ir.AttributeType.GRAPHS:
                    path = f"{path}[{index}]"
                yield Scope(scope.at(path), body, owner=node, function=scope.function)


def addresses(model: ir.Model) -> dict[ir.Value, str]:
    """Return the address (`Scope.at`) of everything that a graph is given or a node computes."""
    return {
        value: scope.at(value.name)
        for scope in scopes(model)
        for value in (*scope.graph.inputs, *(v for node in scope.graph for v in node.outputs))
    }


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs in the attributes of a node: the bodies of If, Loop, Scan and the like."""
    for attribute in node.attributes.values():
        yield from _graphs_of(attribute)


def _graphs_of(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    if attribute.type == ir.AttributeType.GRAPHS:
        return tuple(attribute.as_graphs())
    return ()
