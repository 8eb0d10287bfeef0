"""Copies of a model that cost its structure and none of its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes


def snapshot(model: ir.Model) -> ir.Model:
    """Copy a model so that no edit of the copy shows in the original; tensors are shared.

    `Model.clone` alone shares the type objects of values, which setting a `dtype` edits in place,
    and leaves out the model's own `meta`.

    Args:
        model: Its nodes must be in order.
    """
    twin = model.clone()
    twin.meta.update(model.meta)
    twin.graph.opset_imports.update(model.opset_imports)
    for scope in scopes(twin):
        for value in _values(scope):
            if value.type is not None:
                value.type = own_type(value.type)
    return twin


def structure(model: ir.Model) -> list[object]:
    """Return what must be equal in two copies for neither to have been edited.

    Tensors and attributes are compared by identity, which copies share. Inferred types and shapes
    of inner values are left out: writing them down changes no model.
    """
    facts: list[object] = [
        sorted(model.metadata_props.items()),
        sorted(model.opset_imports.items()),
    ]
    facts.extend(model.functions)
    for scope in scopes(model):
        graph = scope.graph
        facts.append((scope.name, *map(_face, (*graph.inputs, *graph.outputs))))
        facts.extend((name, id(value.const_value)) for name, value in graph.initializers.items())
        facts.extend(map(_node_facts, graph))
    return facts


def own_type(shared: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    """Copy a type, which setting the `dtype` of a value edits in place."""
    if type(shared) is ir.TensorType:
        # All but every value has one, and deepcopy takes as long as the rest of the snapshot.
        return ir.TensorType(shared.dtype, denotation=shared.denotation)
    return copy.deepcopy(shared)


def _values(scope: Scope) -> Iterator[ir.Value]:
    yield from scope.graph.inputs
    for value in scope.graph.initializers.values():
        if not value.is_graph_input():
            yield value
    for node in scope.graph:
        yield from node.outputs


def _face(value: ir.Value) -> tuple[object, ...]:
    return (value.name, str(value.type), str(value.shape))


def _node_facts(node: ir.Node) -> tuple[object, ...]:
    return (
        node.op_identifier(),
        node.name,
        node.doc_string,
        tuple(None if value is None else value.name for value in node.inputs),
        tuple(value.name for value in node.outputs),
        tuple(sorted(node.metadata_props.items())),
        tuple((name, _attribute_fact(value)) for name, value in node.attributes.items()),
    )


def _attribute_fact(attribute: ir.Attr) -> object:
    # Copies have bodies of their own, which are scopes of their own.
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return attribute.type.name
    return id(attribute)
