"""The order of nodes: every node behind those that make its inputs."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.model.scopes import bodies


class BrokenGraphError(ValueError):
    """A graph that no order makes right: a cycle, or a value that nothing provides."""


def restore_order(model: ir.Model) -> bool:
    """Sort the graphs whose nodes are out of order; leave the others exactly as they are.

    The sort is stable: nodes move only as far as they must.

    Returns:
        Whether anything moved.

    Raises:
        BrokenGraphError: There is a cycle, or a node reads a value that nothing provides.
    """
    moved = False
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        if not _Walk().in_order(graph):
            try:
                graph.sort()
            except ValueError as error:
                name = graph.name or "the graph"
                raise BrokenGraphError(f"{name} has a cycle") from error
            moved = True
    return moved


def is_in_order(model: ir.Model) -> bool:
    """Whether every node stands behind those that make its inputs.

    Raises:
        BrokenGraphError: A node reads a value that nothing provides.
    """
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    return all(_Walk().in_order(graph) for graph in graphs)


class _Walk:
    """One pass over a graph and its bodies, in the order in which they run."""

    def __init__(self) -> None:
        self._visible: set[ir.Graph] = set()
        self._ran: set[ir.Node] = set()

    def in_order(self, graph: ir.Graph) -> bool:
        self._visible.add(graph)
        ordered = True
        for node in graph:
            for value in node.inputs:
                ordered &= value is None or self._is_there(value, f"node {_called(node)}")
            for body in bodies(node):
                ordered &= self.in_order(body)
            self._ran.add(node)
        for value in graph.outputs:
            ordered &= self._is_there(value, "the graph's output list")
        self._visible.discard(graph)
        return ordered

    def _is_there(self, value: ir.Value, reader: str) -> bool:
        producer = value.producer()
        if producer in self._ran and producer.graph in self._visible:
            return True
        owner = value.graph if producer is None else producer.graph
        if owner not in self._visible:
            gone = "nothing provides" if producer is None else "only a removed node provides"
            text = f"{reader} reads {value.name!r}, which {gone}"
            raise BrokenGraphError(text)
        return producer is None


def _called(node: ir.Node) -> str:
    return repr(node.name) if node.name else node.op_type
