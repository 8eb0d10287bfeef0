"""Who reads a value: replace it everywhere, and remove what nobody reads any more.

onnx_ir keeps uses across scopes, but it leaves two things to its callers: a graph output must keep
its name, type and shape when another value takes its place, and the body of a removed If, Loop or
Scan still counts as a reader of the outer values it captured. Both are settled here.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from graphopt.model.scopes import bodies


def is_unused(value: ir.Value) -> bool:
    """Whether no node, in any scope, reads a value and no graph returns it."""
    return not value.is_graph_output() and not value.uses()


def only_user(value: ir.Value) -> ir.Node | None:
    """Return the node that reads a value, once, where nothing else does; None otherwise.

    A node that reads the value twice, and a value that is a graph output, give None.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Whether `new` can take the place of `old` without an Identity that keeps an output's name.

    A graph output can only be taken over by a value that a node of the same graph computes and
    that is not an output itself: inputs, initializers and outer values keep their own names.
    """
    if not old.is_graph_output():
        return True
    producer = new.producer()
    return producer is not None and producer.graph is old.graph and not new.is_graph_output()


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`; a graph output keeps its name, type and shape.

    Where `can_replace` says no, an Identity behind the producer of `old` carries the output's name.
    The producer of `old` stays: see `remove`. The caller answers for dominance: `new` must be
    defined wherever `old` is read.

    Args:
        old: The output of a node.
        new: The value to read instead; it has the same contents.
    """
    if old.is_graph_output():
        carrier = new if can_replace(old, new) else _identity_behind(old, new)
        _take_over_outputs(old, carrier)
    for user, index in old.uses():
        user.replace_input_with(index, new)


def _identity_behind(old: ir.Value, new: ir.Value) -> ir.Value:
    producer = old.producer()
    if producer is None or producer.graph is None:
        raise ValueError(f"{old.name!r} is not computed by a node of a graph")
    identity = ir.Node("", "Identity", [new], name=f"{old.name}_identity")
    producer.graph.insert_after(producer, identity)
    return identity.outputs[0]


def _take_over_outputs(old: ir.Value, carrier: ir.Value) -> None:
    graph = old.graph
    if graph is None:
        raise ValueError(f"{old.name!r} is the output of no graph")
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = carrier
    carrier.name, old.name = old.name, None
    carrier.type, carrier.shape = old.type, old.shape
    carrier.metadata_props.update(old.metadata_props)


def remove(node: ir.Node) -> None:
    """Remove a node whose outputs nobody reads, and then what only it has read.

    Upstream nodes and initializers that end up without a reader go too, in every scope; graph
    inputs stay.

    Raises:
        ValueError: An output of the node is still read.
    """
    pending = [node]
    while pending:
        current = pending.pop()
        if current.graph is None:
            continue
        freed = _detach(current)
        pending.extend(_without_reader(freed))


def remove_all(nodes: Iterable[ir.Node]) -> None:
    """Remove several nodes as `remove` does, a reader before what it reads."""
    for node in nodes:
        remove(node)


def remove_unread(values: Iterable[ir.Value | None]) -> None:
    """Remove what computes values that nobody reads any more, as `remove` does.

    Args:
        values: What a node has read before its inputs were replaced.
    """
    remove_all(_without_reader(value for value in values if value is not None))


def _detach(node: ir.Node) -> list[ir.Value]:
    """Take a node out of its graph; return the values that it and its bodies have read."""
    if node.graph is None:
        raise ValueError(f"{node.name!r} is in no graph")
    if not all(is_unused(output) for output in node.outputs):
        raise ValueError(f"an output of {node.name!r} is still read")
    read = [value for value in node.inputs if value is not None]
    for body in bodies(node):
        read.extend(_release(body))
    node.graph.remove(node, safe=True)
    return read


def _release(body: ir.Graph) -> list[ir.Value]:
    """Let the nodes of a dropped body read nothing, so that captured values lose those uses."""
    read: list[ir.Value] = []
    for node in body:
        for index, value in enumerate(node.inputs):
            if value is not None:
                read.append(value)
                node.replace_input_with(index, None)
        for inner in bodies(node):
            read.extend(_release(inner))
    return read


def _without_reader(values: Iterable[ir.Value]) -> list[ir.Node]:
    """Drop the initializers among values that lost their last reader; return such producers."""
    producers: dict[ir.Node, None] = {}
    for value in values:
        if not is_unused(value):
            continue
        producer = value.producer()
        if producer is None:
            _drop_initializer(value)
        elif all(is_unused(output) for output in producer.outputs):
            producers[producer] = None
    return list(producers)


def _drop_initializer(value: ir.Value) -> None:
    graph, name = value.graph, value.name
    if value.is_initializer() and not value.is_graph_input() and graph is not None and name:
        graph.initializers.pop(name, None)
