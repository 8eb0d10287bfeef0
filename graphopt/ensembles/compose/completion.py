"""The last steps of an ensemble: its outputs, its names, and nothing that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from graphopt.ensembles.compose.copying import ANNOTATED, ANNOTATION, Dim, identity
from graphopt.ensembles.compose.dims import Dims
from graphopt.ensembles.compose.localize import localize
from graphopt.ensembles.compose.naming import give_names
from graphopt.ensembles.output_types import is_complete
from graphopt.errors import GraphoptError
from graphopt.model.calls import callees
from graphopt.model.carried import TYPE_KEY, values_of
from graphopt.model.order import BrokenGraphError, restore_order
from graphopt.model.scopes import scopes
from graphopt.pipeline.instruments.checker import check_problem
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import is_unused, remove
from graphopt.rewrite.value_types import ValueTypes


def complete(
    model: ir.Model,
    outputs: Mapping[str, ir.Value],
    dims: Dims,
    declared: Iterable[ir.Value],
    members: Mapping[str, ir.Model],
    notes: list[str],
) -> None:
    """Turn an ensemble under construction into a model, in place.

    Args:
        model: The ensemble.
        outputs: What it returns, by name.
        dims: Of the ensemble.
        declared: What inputs of placed members read.
        members: The members' own copies.
        notes: What to tell the user goes here.

    Raises:
        GraphoptError: As in `Composition.finish`.
    """
    if not outputs:
        raise GraphoptError("the ensemble has no output", fix="name one")
    graph = model.graph
    unread = {value for value in graph.inputs if not value.uses()} & set(declared)
    named = _set_outputs(graph, outputs)
    Names.forget(model)
    try:
        restore_order(model)
    except BrokenGraphError as error:
        raise GraphoptError(f"the ensemble cannot be put in order: {error}") from error
    _drop_unread(model, keep=unread)
    graph.inputs[:] = sorted(graph.inputs, key=ir.Value.is_initializer)
    _type_outputs(model)
    give_names(model, named, notes)
    localize(model, stay=_annotating(model))
    _settle_annotations(model)
    _settle_dims(model, dims)
    _check(model, members, notes)


def _check(model: ir.Model, members: Mapping[str, ir.Model], notes: list[str]) -> None:
    problem = check_problem(model, full=False)
    if problem is None:
        return
    for name, member in members.items():
        # ONNX Runtime runs some models that the checker refuses.
        if check_problem(member, full=False) is not None:
            notes.append(
                f"onnx.checker refuses member {name!r}{_undeclared(member)}, and the ensemble:"
                f" {problem}"
            )
            return
    raise GraphoptError(f"onnx.checker refuses the ensemble: {problem}")


def _undeclared(member: ir.Model) -> str:
    names = [repr(value.name) for value in member.graph.outputs if not is_complete(value)]
    return f" (no type or shape is known of its output {', '.join(names)})" if names else ""


def _set_outputs(graph: ir.Graph, outputs: Mapping[str, ir.Value]) -> dict[ir.Value, str]:
    named: dict[ir.Value, str] = {}
    for name, value in outputs.items():
        producer = value.producer()
        if producer is not None and producer.graph is not graph:
            raise GraphoptError(f"the output {name!r} is no value of the main graph")
        is_free = value not in named and (
            producer is not None or (value.is_graph_input() and value.name == name)
        )
        named[value if is_free else identity(graph, value, name)] = name
    graph.outputs[:] = list(named)
    return named


def _drop_unread(model: ir.Model, keep: set[ir.Value]) -> None:
    attached = [scope for scope in scopes(model) if scope.function is None]
    _forget_discarded([scope.graph for scope in attached])
    for scope in attached:
        for node in reversed(list(scope.graph)):
            if node.graph is not None and all(map(is_unused, node.outputs)):
                remove(node)
    kept = _annotating(model)
    graph = model.graph
    graph.inputs[:] = [
        value for value in graph.inputs if value in keep or value in kept or not is_unused(value)
    ]
    for name, value in list(graph.initializers.items()):
        if is_unused(value) and value not in kept and not value.is_graph_input():
            del graph.initializers[name]
    called = callees(model)
    for identifier in [each for each in model.functions if each not in called]:
        del model.functions[identifier]


def _forget_discarded(graphs: list[ir.Graph]) -> None:
    """Take back what nodes read that were made and are in no graph, or in a body of no node."""
    there = set(graphs)
    for graph in graphs:
        for value in list(values_of(graph)):
            for user, index in list(value.uses()):
                if user.graph not in there:
                    user.replace_input_with(index, None)


def _annotating(model: ir.Model) -> set[ir.Value]:
    """Return what quantization annotations name, which nothing else may read, and are for."""
    return {
        named
        for scope in scopes(model)
        for value in values_of(scope.graph)
        if ANNOTATION in value.meta and not is_unused(value)
        for named in (value, *value.meta[ANNOTATION].values())
    }


def _settle_annotations(model: ir.Model) -> None:
    for scope in scopes(model):
        for value in values_of(scope.graph):
            roles = value.meta.pop(ANNOTATION, None)
            if roles is not None:
                value.meta[ANNOTATED] = {role: named.name for role, named in roles.items()}


def _settle_dims(model: ir.Model, dims: Dims) -> None:
    graph = model.graph
    faces = [value for value in (*graph.inputs, *graph.outputs) if value.shape is not None]
    inner = [
        value
        for scope in scopes(model)
        if scope.function is None
        for value in values_of(scope.graph)
        if value.shape is not None
    ]
    shapes = [value.shape for value in (*faces, *inner) if value.shape is not None]
    names = dims.final_names(shapes)
    outside = set(faces)
    for value in dict.fromkeys((*faces, *inner)):
        if value.shape is not None and not value.shape.is_static():
            value.shape = _settled(value.shape, names, sizes=value in outside)


def _settled(shape: ir.Shape, names: Mapping[str, Dim | str], *, sizes: bool) -> ir.Shape:
    settled: list[Dim | str] = []
    for dim in shape:
        symbol = dim.value if isinstance(dim, ir.SymbolicDim) else None
        name = dim if symbol is None else names.get(symbol, dim)
        # What exporters call inner dims is not always true: a wrong name is only a name, and a
        # wrong size is an error of the model.
        settled.append(name if sizes or not isinstance(name, int) else None)
    return ir.Shape(settled, [shape.get_denotation(axis) for axis in range(len(shape))])


def _type_outputs(model: ir.Model) -> None:
    """Give outputs the element type that the checker asks for, where it is known."""
    untyped = [value for value in model.graph.outputs if value.type is None]
    untyped = [value for value in untyped if TYPE_KEY not in value.meta]
    if not untyped:
        return
    types = ValueTypes(model)
    for value in untyped:
        dtype = types(value)
        if dtype is not None:
            value.dtype = dtype
