"""What is to run on integers in a whole model, and which values share a scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined
from graphopt.rewrite.shapes import Shapes
from passes.quantize.static.layers import Layer, dequantizes
from passes.quantize.static.regions import Region
from passes.quantize.static.seeds import joins, seeds
from passes.quantize.static.settings import Settings


@dataclass(frozen=True)
class Group:
    """Values that share one scale.

    Args:
        name: That of the first one.
        members: All of them, in the order of the graph.
        roots: Those whose range decides: the others hold the same numbers, or fewer.
        layers: Those that pass numbers on between members.
    """

    name: str
    members: tuple[ir.Value, ...]
    roots: tuple[ir.Value, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Planned:
    """One layer, and what becomes of its output.

    Args:
        layer: The layer.
        integer_outputs: Its outputs that are quantized behind it.
    """

    layer: Layer
    integer_outputs: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Plan:
    """All layers of a model that run on integers.

    Args:
        layers: In the order of the graph, an outer scope before its bodies.
        groups: By each value that is quantized.
        declined: Layers that were meant and stay float.
        addresses: What each value of the model is called from outside.
    """

    layers: tuple[Planned, ...]
    groups: Mapping[ir.Value, Group]
    declined: tuple[Declined, ...]
    addresses: Mapping[ir.Value, str]

    @property
    def measured(self) -> tuple[str, ...]:
        """The addresses of the values whose range must be known."""
        roots = (value for group in self.distinct() for value in group.roots)
        return tuple(dict.fromkeys(self.addresses[value] for value in roots))

    def distinct(self) -> Iterator[Group]:
        """Yield each group once."""
        yield from {id(group): group for group in self.groups.values()}.values()


def plan(model: ir.Model, settings: Settings, shapes: Shapes, barred: Mapping[str, str]) -> Plan:
    """Decide what runs on integers.

    Args:
        model: The model.
        settings: What is asked for.
        shapes: What is known of its values.
        barred: The addresses of values that must stay float, and why.
    """
    addresses = _addresses(model)

    def objection(value: ir.Value) -> str | None:
        if settings.override(value).skip:
            return f"{value.name!r} is to stay float"
        return barred.get(addresses.get(value, ""))

    found = seeds(model, settings, shapes, objection)
    planned: list[Planned] = []
    for scope in scopes(model):
        region = Region(
            scope,
            settings,
            shapes,
            lambda node, scope=scope: joins(node, scope, settings),  # type: ignore[misc] # bound now
            lambda value: objection(value) is not None,
            found.of(scope),
        )
        for layer in region:
            outputs = tuple(output for output in layer.outputs if region.is_integer(output))
            planned.append(Planned(layer, outputs))
    return Plan(tuple(planned), _groups(planned), tuple(found.declined), addresses)


def _addresses(model: ir.Model) -> dict[ir.Value, str]:
    found: dict[ir.Value, str] = {}
    for scope in scopes(model):
        values = [*scope.graph.inputs, *(output for node in scope.graph for output in node.outputs)]
        found.update((value, scope.at(value.name)) for value in values if value.name)
    return found


class _Leaders:
    """Sets of values that grow together (union-find), each named by one of them."""

    def __init__(self) -> None:
        self._up: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value) -> ir.Value:
        while self._up.setdefault(value, value) is not value:
            self._up[value] = self._up[self._up[value]]
            value = self._up[value]
        return value

    def join(self, first: ir.Value, second: ir.Value) -> None:
        self._up[self.of(second)] = self.of(first)

    def sets(self) -> dict[ir.Value, list[ir.Value]]:
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in list(self._up):
            found.setdefault(self.of(value), []).append(value)
        return found


def _groups(planned: list[Planned]) -> dict[ir.Value, Group]:
    leaders = _Leaders()
    relabelled = {o for one in planned if one.layer.relabels for o in one.layer.outputs}
    keeping = [one.layer for one in planned if one.layer.keeps_scale]
    for one in planned:
        for value in (*one.layer.reads, *one.integer_outputs):
            if not dequantizes(value) and value not in relabelled:
                leaders.of(value)
    for layer in keeping:
        first, *others = (*layer.reads, *layer.outputs)
        for value in others:
            leaders.join(first, value)
    passed_on = {output for layer in keeping for output in layer.outputs}
    groups: dict[ir.Value, Group] = {}
    for first, kin in leaders.sets().items():
        roots = tuple(value for value in kin if value not in passed_on)
        between = tuple(layer for layer in keeping if leaders.of(layer.reads[0]) is first)
        groups.update(dict.fromkeys(kin, Group(kin[0].name or "", tuple(kin), roots, between)))
    return groups
