"""Names of a converted model: its inputs, outputs and dynamic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model import scopes

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def rename_values(values: Sequence[ir.Value], names: Sequence[str], what: str) -> None:
    """Give the first values new names.

    Args:
        values: The inputs or the outputs of a graph.
        names: No more names than there are values.
        what: `input` or `output`, for messages.

    Raises:
        GraphoptError: There are more names than values, or a name would occur twice.
    """
    if len(names) > len(values):
        raise GraphoptError(
            f"{len(names)} {what} names are given, the model has {len(values)} {what}s"
        )
    kept = [value.name for value in values[len(names) :]]
    for name in names:
        if [*names, *kept].count(name) > 1:
            raise GraphoptError(f"two {what}s would be called {name!r}")
    for value, name in zip(values, names, strict=False):
        value.name = name


def avoid_clashes(model: ir.Model) -> None:
    """Rename inner values that have the name of another input or output.

    Raises:
        GraphoptError: An input and an output would have one name.
    """
    interface = [*model.graph.inputs, *model.graph.outputs]
    owners: dict[str, ir.Value] = {}
    for value in interface:
        if owners.setdefault(value.name or "", value) is not value:
            raise GraphoptError(
                f"an input and an output would both be called {value.name!r}",
                fix="name them with --input-name and --output-name",
            )
    taken = {name for scope in scopes(model) for name in _value_names(scope.graph)}
    for scope in scopes(model):
        for value in _inner_values(scope.graph):
            if value.name in owners and owners[value.name] is not value:
                _rename_free(scope.graph, value, taken)


def rename_dims(model: ir.Model, names: Mapping[str, str]) -> None:
    """Rename symbolic dimensions everywhere, inside expressions like `2*s0` too.

    One that is called by a number, as exporters call what turned out to be fixed, becomes that.
    """
    for scope in scopes(model):
        for value in (*scope.graph.inputs, *_inner_values(scope.graph)):
            if value.shape is None:
                continue
            dims = [_renamed(dim, names) for dim in value.shape]
            if dims != list(value.shape):
                value.shape = ir.Shape(dims)


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    if dim.value.isdecimal():
        return int(dim.value)
    return ir.SymbolicDim(_IDENTIFIER.sub(lambda match: names.get(match[0], match[0]), dim.value))


def _inner_values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _value_names(graph: ir.Graph) -> list[str]:
    return [value.name or "" for value in (*graph.inputs, *_inner_values(graph))]


def _rename_free(graph: ir.Graph, value: ir.Value, taken: set[str]) -> None:
    old = value.name or ""
    number = 1
    while f"{old}_{number}" in taken:
        number += 1
    name = f"{old}_{number}"
    taken.add(name)
    if graph.initializers.get(old) is value:
        # Initializers are kept by name.
        del graph.initializers[old]
        value.name = name
        graph.initializers[name] = value
    else:
        value.name = name
