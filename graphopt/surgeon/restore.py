"""What onnx-graphsurgeon drops and can be put back, and what it puts where it was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

from graphopt.model import scopes
from graphopt.model.proto_graphs import proto_bodies

_Noted = ir.Graph | ir.Node | ir.Value


def depths(model: ir.Model) -> dict[str, int]:
    """Say how many bodies deep each initializer of the main graph and its bodies stands."""
    of_graph: dict[int, int] = {}
    of_name: dict[str, int] = {}
    for scope in scopes(model):
        if scope.function is not None:
            continue
        depth = 0 if scope.owner is None else of_graph[id(scope.owner.graph)] + 1
        of_graph[id(scope.graph)] = depth
        of_name |= dict.fromkeys(scope.graph.initializers, depth)
    return of_name


def return_captured(graph: onnx.GraphProto, owners: Mapping[str, int], depth: int = 0) -> None:
    """Move weights that a body reads from an outer graph back there.

    onnx-graphsurgeon writes them, and the types of outer values, into every body that reads them.
    """
    for body in _bodies(graph):
        return_captured(body, owners, depth + 1)
        here = {tensor.name for tensor in graph.initializer}
        for tensor in list(body.initializer):
            if owners.get(tensor.name, depth + 1) <= depth:
                body.initializer.remove(tensor)
                if tensor.name not in here:
                    graph.initializer.append(tensor)
                    here.add(tensor.name)
        own = {name for node in body.node for name in node.output}
        for info in list(body.value_info):
            if info.name not in own:
                body.value_info.remove(info)


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    return (body for node in graph.node for body in proto_bodies(node))


def restore_interface(before: ir.Model, after: ir.Model) -> None:
    """Put back unused initializers, and the inputs that have an initializer as their default."""
    made = {scope.name: scope.graph for scope in scopes(after)}
    for scope in scopes(before):
        graph = made.get(scope.name)
        if graph is None:
            continue
        taken = {value.name for node in graph for value in node.outputs}
        taken |= {value.name for value in graph.inputs}
        for name, value in scope.graph.initializers.items():
            used = value.uses() or value.is_graph_output()
            if not used and name not in graph.initializers and name not in taken:
                graph.register_initializer(
                    ir.Value(
                        name=name, type=value.type, shape=value.shape, const_value=value.const_value
                    )
                )
        for position, value in enumerate(scope.graph.inputs):
            default = graph.initializers.get(value.name or "")
            if value.name in scope.graph.initializers and default is not None:
                graph.inputs.insert(position, default)


def restore_notes(before: ir.Model, after: ir.Model) -> None:
    """Put back metadata and doc strings of the nodes and values that are still there."""
    made = {scope.name: scope.graph for scope in scopes(after)}
    for identifier, function in before.functions.items():
        if identifier in after.functions:
            after.functions[identifier].metadata_props.update(function.metadata_props)
    for scope in scopes(before):
        graph = made.get(scope.name)
        if graph is None:
            continue
        _copy_notes(scope.graph, graph)
        values, nodes = _named(graph)
        old_values, old_nodes = _named(scope.graph)
        for name in old_values.keys() & values.keys():
            _copy_notes(old_values[name], values[name])
        for key in old_nodes.keys() & nodes.keys():
            _copy_notes(old_nodes[key], nodes[key])


def _named(graph: ir.Graph) -> tuple[dict[str, ir.Value], dict[tuple[str, str], ir.Node]]:
    """Index values by name, and nodes by operator and first output."""
    values = {v.name: v for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    nodes: dict[tuple[str, str], ir.Node] = {}
    for node in graph:
        values |= {value.name: value for value in node.outputs if value.name}
        first = next((value.name for value in node.outputs if value.name), None)
        if first is not None:
            nodes[node.op_type, first] = node
    return values, nodes


def _copy_notes(old: _Noted, new: _Noted) -> None:
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    new.doc_string = new.doc_string or old.doc_string
