"""What has to be scaled together: values whose channels are one, and the constants around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import constant
from graphopt.rewrite.scaling import rules
from graphopt.rewrite.scaling.lanes import Lane, channels, lane
from graphopt.rewrite.scaling.parts import ForkError, Part, Refused, Weights
from graphopt.rewrite.selection import address
from graphopt.rewrite.shapes import Shapes

_MOST_FORKS = 4
"""Products of two activations in one group, of which each doubles the ways to try."""


@dataclass(frozen=True)
class Source:
    """Where a search begins: at what a node computes with constants of its own, or at its input.

    Args:
        node: A layer, a normalization, or a Mul with a constant.
        value: What it computes, or reads.
        lane: The channels of that.
        count: How many they are.
        scope: Where it stands.
    """

    node: ir.Node
    value: ir.Value
    lane: Lane
    count: int
    scope: Scope

    @property
    def at(self) -> str:
        """Its address."""
        return address(self.node, self.scope)


@dataclass(frozen=True)
class Reader:
    """A layer that multiplies the scaled channels with a weight.

    Args:
        part: The weight.
        value: What is multiplied with it.
        axis: The axis of channels of `value`, negative.
        channels: The channel of the group for each index of that axis; -1: none.
    """

    part: Part
    value: ir.Value
    axis: int
    channels: Lane


@dataclass(frozen=True)
class Group:
    """All that is scaled together. Any positive scales leave the outputs as they are.

    Args:
        source: Where the search began.
        parts: The constants: those that write the channels (divided by the scales) and those that
            read them (multiplied).
        readers: The layers among those that read.
        values: What is divided by the scales when the model runs.
    """

    source: Source
    parts: tuple[Part, ...]
    readers: tuple[Reader, ...]
    values: tuple[ir.Value, ...]

    @property
    def count(self) -> int:
        """The number of channels."""
        return self.source.count

    @property
    def writers(self) -> tuple[Part, ...]:
        """The weights of layers that write the channels."""
        return tuple(p for p in self.parts if p.weight is not None and p.power < 0)


class Scaling:
    """Finds groups in a model as it is now.

    Args:
        model: Read now; constants may be replaced afterwards, nodes may not.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.shapes = Shapes.of(model)
        self.weights = Weights(model)
        self.owners = {id(scope.graph): scope for scope in scopes(model)}

    def sources(self) -> Iterator[Source]:
        """Yield where channels begin, in the order of the graph."""
        for scope in self.owners.values():
            for node in scope.graph:
                found = rules.begins(node, self)
                if found is not None:
                    value, numbers, count = found
                    yield Source(node, value, numbers, count, scope)

    def group(self, source: Source) -> Group:
        """Find what has to be scaled with the channels of a source.

        Raises:
            Refused: Something in between does not let scales pass, or a constant cannot be edited.
        """
        return self._group(source, {})

    def _group(self, source: Source, chosen: Mapping[ir.Node, int]) -> Group:
        try:
            return Walk(self, source, chosen).group()
        except ForkError as fork:
            if len(chosen) == _MOST_FORKS:
                raise
            for index in (0, 1):
                try:
                    return self._group(source, {**chosen, fork.node: index})
                except Refused:
                    continue
            raise

    def input_of(self, node: ir.Node, index: int) -> Source | None:
        """Return what a layer multiplies with the weight that it reads as an input.

        None where its channels are not known.
        """
        found = self.weights.at(node, index)
        scope = self.owners.get(id(node.graph))
        if found is None or scope is None:
            return None
        weight, use = found
        value, activation = use.activation, use.slot.activation
        if value is None or activation is None or use.axes.input is None:
            return None
        count = int(weight.tensor.shape.numpy()[use.axes.input]) * activation.groups
        behind = -1 - activation.axis
        if activation.axis >= 0:
            rank = self.shapes.rank(value) or len(use.axes.reduction) + 1
            behind = rank - 1 - activation.axis
        return Source(node, value, channels(count, behind), count, scope)

    def readers(self, places: Sequence[tuple[ir.Node, int]]) -> Group:
        """Return layers that read the same channels, as if something in front divided these.

        Args:
            places: The layers, and the inputs that their weights are.

        Raises:
            Refused: They do not read the same, or a weight cannot be edited.
        """
        sources = [self.input_of(*place) for place in places]
        source = sources[0]
        if source is None:
            raise Refused("its input is not known")
        walk = Walk(self, source)
        for (node, _), other in zip(places, sources, strict=True):
            if other is None or other.value is not source.value or other.count != source.count:
                raise Refused("the layers read different inputs")
            walk.read(node, source.value, other.lane)
        return walk.reached()

    def owner(self, value: ir.Value) -> Scope:
        """Return the scope that defines a value."""
        graph = value.graph
        scope = None if graph is None else self.owners.get(id(graph))
        if scope is None:
            raise ValueError(f"{value.name!r} is in no scope of the model")
        return scope

    def at(self, node: ir.Node) -> str:
        """Return the address of a node."""
        scope = self.owners.get(id(node.graph))
        return (node.name or node.op_type) if scope is None else address(node, scope)


class Walk:
    """The state of one search.

    Args:
        scaling: The model.
        source: Where it begins.
        chosen: Which operand of a product of two activations has the channels.
    """

    def __init__(
        self, scaling: Scaling, source: Source, chosen: Mapping[ir.Node, int] | None = None
    ) -> None:
        self.scaling = scaling
        self.chosen = chosen or {}
        self.shapes = scaling.shapes
        self._source = source
        self._lanes: dict[ir.Value, Lane] = {}
        self._pending: list[ir.Value] = []
        self._parts: dict[tuple[ir.Node, int], Part] = {}
        self._readers: list[Reader] = []

    def group(self) -> Group:
        """Walk until nothing new is reached."""
        self.spread(self._source.value, self._source.lane)
        while self._pending:
            value = self._pending.pop()
            self._visit(value, self._lanes[value])
        self._check_products()
        return self.reached()

    def reached(self) -> Group:
        """Return what was reached so far.

        Raises:
            Refused: A weight is shared with a layer that was not reached.
        """
        self._check_shared()
        return Group(
            self._source, tuple(self._parts.values()), tuple(self._readers), tuple(self._lanes)
        )

    def read(self, node: ir.Node, value: ir.Value, numbers: Lane) -> None:
        """Let one node read channels."""
        for index, read in enumerate(node.inputs):
            if read is value:
                self._apply(node, index, value, numbers)

    def spread(self, value: ir.Value | None, numbers: Lane) -> None:
        """Say that a value has these channels too.

        Raises:
            Refused: It is known to have others.
        """
        numbers = lane(numbers)
        if value is None or (numbers < 0).all():
            return
        known = self._lanes.get(value)
        if known is None:
            self._check_fit(value, numbers)
            self._lanes[value] = numbers
            self._pending.append(value)
        elif known.shape != numbers.shape or (known != numbers).any():
            raise Refused(f"{value.name!r} is reached in two ways that do not agree")

    def holds(self, value: ir.Value | None) -> bool:
        """Whether a value was reached."""
        return value in self._lanes

    def lane(self, value: ir.Value) -> Lane | None:
        """Return the channels of a value that was reached."""
        return self._lanes.get(value)

    def part(self, node: ir.Node, index: int, numbers: Lane, power: int) -> None:
        """Say that a constant input is scaled, by numbers as they broadcast to it.

        Raises:
            Refused: It is no constant of floats.
        """
        value = node.inputs[index]
        tensor = constant(value)
        if tensor is None or not tensor.dtype.is_floating_point():
            raise Refused(f"{self._name(node)} reads a computed {value.name if value else '?'!r}")
        self._parts[node, index] = Part(node, index, lane(numbers), power)

    def weight(self, node: ir.Node, index: int, numbers: Lane, power: int) -> None:
        """Say that a weight is scaled, by numbers along the axes of the stored tensor."""
        found = self.scaling.weights.at(node, index)
        if found is None:
            raise Refused(f"the weight of {self._name(node)} cannot be edited")
        if found[0].quantization is not None:
            raise Refused(f"the weight of {self._name(node)} is quantized")
        if not self.scaling.weights.is_finite(found[0]):
            raise Refused(f"the weight of {self._name(node)} holds NaN or infinity")
        self._parts[node, index] = Part(node, index, lane(numbers), power, found[0])

    def reader(self, node: ir.Node, index: int, value: ir.Value, axis: int, along: Lane) -> None:
        """Say that a layer, whose weight is scaled, multiplies it with the channels."""
        self._readers.append(Reader(self._parts[node, index], value, axis, along))

    def _visit(self, value: ir.Value, numbers: Lane) -> None:
        if value.is_graph_output():
            raise Refused(f"{value.name!r} is an output of the graph")
        producer = value.producer()
        if producer is None:
            what = "a constant" if value.is_initializer() else "an input of the graph"
            raise Refused(f"{value.name!r} is {what}")
        self._apply(producer, None, value, numbers)
        for node, index in list(value.uses()):
            self._apply(node, index, value, numbers)

    def _apply(self, node: ir.Node, index: int | None, value: ir.Value, numbers: Lane) -> None:
        rule = rules.rule(node)
        if rule is None or (index is None and node.outputs[0] is not value and not _splits(node)):
            verb = "computes" if index is None else "reads"
            raise Refused(f"{node.op_type} {self._name(node)} {verb} {value.name!r}")
        rule(rules.Visit(self, node, index, value, numbers))

    def _check_fit(self, value: ir.Value, numbers: Lane) -> None:
        shape = self.shapes.shape(value)
        if shape is None:
            return
        if numbers.ndim > len(shape):
            raise Refused(f"{value.name!r} has fewer axes than its channels")
        aligned = shape[len(shape) - numbers.ndim :]
        for size, wanted in zip(aligned, numbers.shape, strict=True):
            if isinstance(size, int) and wanted not in (1, size):
                raise Refused(f"{value.name!r} is broadcast along its channels")

    def _check_shared(self) -> None:
        for part in self._parts.values():
            if part.weight is None:
                continue
            for use in self.scaling.weights.uses(part.weight):
                other = self._parts.get(use)
                if other is None:
                    raise Refused(f"{part.weight.at} is shared with {self._name(use[0])}")
                if other.power != part.power or not np.array_equal(other.lane, part.lane):
                    raise Refused(f"{part.weight.at} is shared, and scaled in two ways")

    def _check_products(self) -> None:
        for value in self._lanes:
            for node, _ in value.uses():
                if node.op_type in ("Mul", "Div", "MatMul") and all(map(self.holds, node.inputs)):
                    raise Refused(f"{self._name(node)} multiplies the channels by themselves")
                if node.op_type in ("Mul", "Div"):
                    # The channels come in through this operand: its factor stays what it is.
                    for index in (0, 1):
                        self._parts.pop((node, index), None)

    def _name(self, node: ir.Node) -> str:
        return self.scaling.at(node)


def _splits(node: ir.Node) -> bool:
    return node.op_type == "Split"


__all__ = ["Group", "Reader", "Scaling", "Source", "Walk", "channels"]
