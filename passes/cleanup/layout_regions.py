"""Neighbouring nodes that could all work on data in another order of axes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.rewrite.constants import constant, is_op
from passes.cleanup.min_cut import FOREVER, SINK, SOURCE, Network
from passes.cleanup.sites import Site
from passes.cleanup.turned_reshapes import reshape
from passes.cleanup.turns import RULES, Order, Rule, Turn, Turning, inverse, perm

_RULES: dict[str, Rule] = {
    **RULES,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
}
_COPIED = 1024
"""Elements that a constant may have that is kept for other readers beside its turned copy."""

_ONE = 1 << 48
"""What one Transpose costs, next to the elements that it moves."""

_GUESS = 64
"""Taken for a size that is not known."""


@dataclass
class Region:
    """Values that could be turned, and the nodes between them that could work on turned values.

    Args:
        graph: The nodes stand here, and in no body of theirs.
        site: Where they stand.
        orders: By value, how it would be turned.
        turns: By node, what it would turn into.
        entries: The Transposes that such values come from, which need not be then.
        exits: By value, the Transposes that turn it now.
    """

    graph: ir.Graph
    site: Site
    orders: dict[ir.Value, Order] = field(default_factory=dict)
    turns: dict[ir.Node, Turn] = field(default_factory=dict)
    entries: dict[ir.Value, ir.Node] = field(default_factory=dict)
    exits: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)

    def grow(self, value: ir.Value, order: Order) -> None:
        """Take in all that can be turned together with a value."""
        self.orders[value] = order
        waiting = deque([value])
        while waiting:
            current = waiting.popleft()
            for node in self._neighbours(current):
                waiting.extend(self._take(node))

    def _neighbours(self, value: ir.Value) -> Iterator[ir.Node]:
        """Yield the nodes at a value, but for Transposes that turn it back and forth."""
        order, producer = self.orders[value], value.producer()
        if producer is not None and producer.graph is self.graph:
            written = perm(producer)
            if written is not None and inverse(written) == order:
                self.entries[value] = producer
            yield producer
        for reader, _ in value.uses():
            if reader.graph is self.graph and perm(reader) == order:
                self.exits.setdefault(value, []).append(reader)
            else:
                yield reader

    def _take(self, node: ir.Node) -> list[ir.Value]:
        """Take a node in, if it can be turned and agrees with what is there; return new values."""
        turn = self._turn_of(node)
        if turn is None:
            return []
        reached = dict[ir.Value, Order]()
        for value, order in _ports(node, turn):
            if self.orders.get(value, reached.get(value, order)) != order:
                return []
            if value not in self.orders:
                reached[value] = order
        self.turns[node] = turn
        self.orders.update(reached)
        return list(reached)

    def _turn_of(self, node: ir.Node) -> Turn | None:
        rule = _RULES.get(node.op_type)
        if rule is None or node in self.turns or node.graph is not self.graph:
            return None
        if not is_op(node, node.op_type) or not node.inputs:
            return None
        turn = rule(Turning(node, self.site, self.orders))
        if turn is None or not all(_can_be_turned(node.inputs[index]) for index in turn.inputs):
            return None
        return turn

    def producer(self, value: ir.Value) -> Hashable:
        """Return the node that decides in which order a value comes, or a side of the cut."""
        if value in self.entries:
            return SOURCE
        node = value.producer()
        turn = None if node is None else self.turns.get(node)
        return node if turn is not None and value.index() in turn.outputs else SINK

    def readers(self, value: ir.Value) -> Iterator[Hashable]:
        """Yield who decides in which order a value is wanted, or a side of the cut."""
        exits = self.exits.get(value, ())
        for node, index in value.uses():
            turn = self.turns.get(node)
            if node in exits:
                yield SOURCE
            else:
                yield node if turn is not None and index in turn.inputs else SINK
        if value.is_graph_output():
            yield SINK

    def best(self) -> set[Hashable] | None:
        """Return the nodes to turn so that fewest Transposes are left; None where none is won.

        Those that are left must not move more elements than before, either.
        """
        exits = [(value, node) for value, nodes in self.exits.items() for node in nodes]
        entries = set(self.entries.values())
        if any(node in entries for _, node in exits):
            return None  # a Transpose between two values of the region would count twice
        transposes = [*self.entries, *(value for value, _ in exits)]
        network = Network()
        for value in self.orders:
            self._connect(network, value)
        turned = network.near_source()
        left = [value for value in self.orders if self.is_mixed(value, turned)]
        is_better = len(left) < len(transposes)
        if not is_better or self._elements(left) > self._elements(transposes):
            return None
        return turned

    def _connect(self, network: Network, value: ir.Value) -> None:
        """Let it cost a Transpose if a value is wanted in another order than it comes in."""
        cost, producer = _ONE + self._elements([value]), self.producer(value)
        readers = list(dict.fromkeys(self.readers(value)))
        for reader in readers:
            network.add(("turned", value), reader, FOREVER)
            network.add(reader, ("as it was", value), FOREVER)
        network.add(producer, ("turned", value), cost)
        network.add(("as it was", value), producer, cost)

    def is_mixed(self, value: ir.Value, turned: set[Hashable]) -> bool:
        """Whether a value is wanted in another order than it comes in."""
        comes_turned = self.producer(value) in turned
        return any((reader in turned) != comes_turned for reader in self.readers(value))

    def _elements(self, values: list[ir.Value]) -> int:
        total = 0
        for value in values:
            shape = self.site.shapes.shape(value) or (None,) * len(self.orders[value])
            total += math.prod(dim if isinstance(dim, int) else _GUESS for dim in shape)
        return total


def _ports(node: ir.Node, turn: Turn) -> Iterator[tuple[ir.Value, Order]]:
    """Yield the values that a node reads or gives turned, but for constants."""
    for index, order in turn.inputs.items():
        value = node.inputs[index]
        if value is not None and constant(value) is None:
            yield value, order
    for index, order in turn.outputs.items():
        yield node.outputs[index], order


def _can_be_turned(value: ir.Value | None) -> bool:
    """Whether a turned copy may stand for a value, and beside it where it is a constant."""
    tensor = constant(value)
    if value is None or tensor is None:
        return value is not None
    if tensor.dtype == ir.DataType.STRING:
        return False
    return tensor.size <= _COPIED or (len(value.uses()) == 1 and not value.is_graph_output())
