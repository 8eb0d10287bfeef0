"""Which functions of a model call which."""

from __future__ import annotations

import onnx_ir as ir


def label(identifier: ir.OperatorIdentifier) -> str:
    """Write a function as addresses do: its domain, name and overload."""
    return ":".join(part for part in identifier if part)


def operators_of(graph: ir.Graph | ir.Function) -> set[ir.OperatorIdentifier]:
    """Return what the nodes of a graph, and of its bodies, call: operators and functions."""
    return {node.op_identifier() for node in graph.all_nodes()}


def called_by(model: ir.Model, graph: ir.Graph | ir.Function) -> set[ir.OperatorIdentifier]:
    """Return the functions that the nodes of a graph, and of its bodies, call."""
    return operators_of(graph) & model.functions.keys()


def callees(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the functions that the main graph reaches."""
    reached = called_by(model, model.graph)
    pending = list(reached)
    while pending:
        new = called_by(model, model.functions[pending.pop()]) - reached
        reached |= new
        pending += new
    return reached


def callees_first(model: ir.Model) -> list[ir.OperatorIdentifier]:
    """Order the functions; those that call each other in a circle stand where they are met."""
    order: dict[ir.OperatorIdentifier, None] = {}
    opened: set[ir.OperatorIdentifier] = set()
    pending = list(reversed(list(model.functions)))
    while pending:
        identifier = pending[-1]
        if identifier in opened:
            order.setdefault(pending.pop())
            continue
        opened.add(identifier)
        pending += sorted(called_by(model, model.functions[identifier]) - opened, reverse=True)
    return list(order)


def in_circles(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Return the functions that call themselves, directly or not, or lie between such ones."""
    calls = {key: called_by(model, function) for key, function in model.functions.items()}
    left = _strip(calls)
    callers: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]] = {key: set() for key in left}
    for key in left:
        for callee in calls[key] & left:
            callers[callee].add(key)
    return _strip(callers)


def _strip(
    arrows: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]],
) -> set[ir.OperatorIdentifier]:
    """Drop what points nowhere, again and again; return what is left."""
    back: dict[ir.OperatorIdentifier, list[ir.OperatorIdentifier]] = {key: [] for key in arrows}
    count = {key: len(ends) for key, ends in arrows.items()}
    for key, ends in arrows.items():
        for end in ends:
            back[end].append(key)
    pending = [key for key, ends in count.items() if ends == 0]
    left = set(arrows)
    while pending:
        key = pending.pop()
        left.discard(key)
        for start in back[key]:
            count[start] -= 1
            if count[start] == 0:
                pending.append(start)
    return left
