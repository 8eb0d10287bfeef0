"""The numbers in names that tf2onnx makes up, which depend on where objects lie in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.model import scopes

_NUMBERED = re.compile(r"__\d+(?=(:\d+)?$)")


def number_by_order(model: ir.Model) -> None:
    """Number the names of values and nodes by where they are read or computed first.

    Initializers get the order in which they are read.
    """
    numbers: dict[str, int] = {}
    for scope in list(scopes(model)):
        graph = scope.graph
        values = list(_values(graph))
        initializers = {id(value): value for value in graph.initializers.values()}
        graph.initializers.clear()
        ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
        for value in values:
            if id(value) not in ends or scope.graph is not model.graph:
                value.name = _renumbered(value.name, numbers)
            if id(value) in initializers:
                graph.register_initializer(initializers.pop(id(value)))
        for value in initializers.values():
            value.name = _renumbered(value.name, numbers)
            graph.register_initializer(value)
        for node in graph:
            node.name = _renumbered(node.name, numbers)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of a graph and of the bodies below that it reads, each one once."""
    seen: set[int] = set()
    for node in graph.all_nodes():
        for value in (*node.inputs, *node.outputs):
            if value is not None and id(value) not in seen and value.graph is graph:
                seen.add(id(value))
                yield value


def _renumbered(name: str | None, numbers: dict[str, int]) -> str | None:
    """Number a name by its order among all; the same name gets the same number."""
    if name is None or not _NUMBERED.search(name):
        return name
    whole = re.sub(r":\d+$", "", name)
    number = numbers.setdefault(whole, len(numbers) + 1)
    return _NUMBERED.sub(f"__{number}", name)
