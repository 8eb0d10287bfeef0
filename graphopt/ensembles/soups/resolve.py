"""Soups of members: one model with mixed weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.ensembles.expression import Expression, Member, Soup
from graphopt.ensembles.soups.constants import same_contents
from graphopt.ensembles.soups.matching import Seat, Side, Weights, match
from graphopt.ensembles.soups.mixtures import Mean, Mixture, Slerp, TaskVectors, mixed
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import add_initializer, constant_node, held, is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opsets import is_below, raise_opset

Tensors = tuple[ir.TensorProtocol, ...]

_MEAN, _VARIANCE = 3, 4
"""Inputs of BatchNormalization."""


def resolve(
    soup: Soup, members: Mapping[str, ir.Model], *, notes: list[str] | None = None
) -> ir.Model:
    """Mix the weights of members of one architecture into one model.

    The members are matched by structure (see `matching.match`). The names, metadata and interface
    are the first's. Weights are mixed when they are read (see `mixtures.mixed`), so that memory
    holds one at a time.

    Args:
        soup: What to mix; its operands are members and soups.
        members: The models by name; a `Member` that carries its own model needs none.
        notes: Where to put what the user should be told.

    Raises:
        GraphoptError: The architectures differ, or the weights of the soup do not fit its operands.
    """
    told: list[str] = [] if notes is None else notes
    mixture = _mixture(soup)
    if soup.method == "mean" and soup.weights and not math.isclose(sum(soup.weights), 1):
        told.append(f"the weights of the soup sum to {sum(soup.weights):g} and are divided by it")
    sides = [_side(operand, members, told) for operand in soup.of]
    return mix(sides, mixture, notes=told)


def mix(
    members: Sequence[tuple[str, ir.Model]], mixture: Mixture, *, notes: list[str] | None = None
) -> ir.Model:
    """Mix the weights of models of one architecture, as `resolve` does.

    Args:
        members: Names, which messages use, with models. They are not edited.
        mixture: What to make of the weights at one place.
        notes: As in `resolve`.
    """
    version = max(opset(model) for _, model in members)
    raised = [Side(name, _raised(model, version)) for name, model in members]
    first = Side(raised[0].name, snapshot(raised[0].model))
    found = [match(first, other) for other in raised[1:]]
    told: list[str] = [] if notes is None else notes
    _note_statistics(first, found, mixture, told)
    _replace(first, found, mixture, told)
    return first.model


def _mixture(soup: Soup) -> Mixture:
    if soup.method == "slerp":
        return Slerp(*(soup.weights or (0.5,)))
    if soup.method == "task":
        return TaskVectors(soup.weights or (1.0,) * (len(soup.of) - 1))
    return Mean(soup.weights or (1.0,) * len(soup.of))


def _side(
    operand: Expression, members: Mapping[str, ir.Model], notes: list[str]
) -> tuple[str, ir.Model]:
    if isinstance(operand, Soup):
        name = f"{operand.method} of {', '.join(map(_label, operand.of))}"
        return f"({name})", resolve(operand, members, notes=notes)
    if not isinstance(operand, Member):
        raise TypeError(f"a soup of {type(operand).__name__}")
    model = members.get(operand.name, operand.model)
    if model is None:
        raise GraphoptError(
            f"there is no member {operand.name!r}",
            fix=f"members are {', '.join(members) or 'none'}",
        )
    return operand.name, model if isinstance(model, ir.Model) else load(model)


def _label(operand: Expression) -> str:
    return operand.name if isinstance(operand, Member) else operand.__class__.__name__.lower()


def _raised(model: ir.Model, version: int) -> ir.Model:
    if not is_below(model, version):
        return model
    twin = snapshot(model)
    raise_opset(twin, version)
    return twin


def _replace(first: Side, found: Sequence[Weights], mixture: Mixture, notes: list[str]) -> None:
    """Put mixtures in the place of the first model's weights."""
    groups: dict[ir.Value, list[tuple[Tensors, list[Seat]]]] = {}
    for seat in found[0] if found else ():
        value = found[0][seat][0]
        others = tuple(weights[seat][1] for weights in found)
        _group(groups.setdefault(value, []), others, seat)
    names = Names(first.model)
    for value, kinds in groups.items():
        tensor = held(value)
        assert tensor is not None
        name = value.name or ""
        if len(kinds) > 1:
            notes.append(
                f"{name!r} of {first.name} is {len(kinds)} weights in other members: it was split"
            )
        # What a graph returns keeps its name.
        kinds.sort(key=lambda kind: all(isinstance(seat.reader, ir.Node) for seat in kind[1]))
        for others, seats in kinds[1:]:
            _split(value, names.fresh(name), mixed((tensor, *others), mixture, name), seats)
        _set(value, mixed((tensor, *kinds[0][0]), mixture, name))


def _group(kinds: list[tuple[Tensors, list[Seat]]], others: Tensors, seat: Seat) -> None:
    for known, seats in kinds:
        if all(map(same_contents, known, others)):
            seats.append(seat)
            return
    kinds.append((others, [seat]))


def _split(value: ir.Value, name: str, tensor: ir.TensorProtocol, seats: Sequence[Seat]) -> None:
    """Let some readers of a constant read another one, which stands beside it."""
    producer, graph = value.producer(), value.graph
    assert graph is not None
    if producer is None:
        twin = add_initializer(graph, name, tensor)
    else:
        node = constant_node(name, tensor)
        graph.insert_after(producer, node)
        twin = node.outputs[0]
    for seat in seats:
        if isinstance(seat.reader, ir.Node):
            seat.reader.replace_input_with(seat.index, twin)
        else:
            seat.reader.outputs[seat.index] = twin


def _set(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
        return
    # A short form such as value_floats gives way to the form that holds any tensor.
    producer.attributes.clear()
    producer.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = None


def _note_statistics(
    first: Side, found: Sequence[Weights], mixture: Mixture, notes: list[str]
) -> None:
    layers = {
        seat.reader
        for weights in found
        for seat, (value, other) in weights.items()
        if _is_statistic(seat) and not _holds(value, other)
    }
    if layers:
        notes.append(
            f"{len(layers)} BatchNormalization of {first.name}: the statistics of the mixed weights"
            f" are not the {type(mixture).__name__.lower()} of the members' statistics, which"
            " stand there as an approximation; validate the soup on data"
        )


def _is_statistic(seat: Seat) -> bool:
    reader = seat.reader
    return (
        isinstance(reader, ir.Node)
        and is_op(reader, "BatchNormalization")
        and seat.index in (_MEAN, _VARIANCE)
    )


def _holds(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    own = held(value)
    return own is not None and same_contents(own, tensor)
