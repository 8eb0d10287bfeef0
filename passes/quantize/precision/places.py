"""Where a value is computed, who reads it, and where a node that reads it can stand."""

from __future__ import annotations

import onnx_ir as ir


def owner(value: ir.Value) -> ir.Graph:
    """Return the graph that a value belongs to."""
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    if not isinstance(graph, ir.Graph):
        raise ValueError(f"{value.name!r} is in no graph")
    return graph


def insert_behind(value: ir.Value, node: ir.Node) -> None:
    """Insert a node where a value is there, in its graph."""
    producer, graph = value.producer(), owner(value)
    if producer is None:
        insert_first(graph, node)
    else:
        graph.insert_after(producer, node)


def insert_first(graph: ir.Graph, node: ir.Node) -> None:
    """Insert a node in front of all others."""
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def read_instead(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
    """Let all who read a value read another, the outputs of a graph too; names stay."""
    for user, index in list(old.uses()):
        user.replace_input_with(index, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
