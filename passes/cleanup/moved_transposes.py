"""Transposes that go, or become fewer, where their readers can work on data as it was before."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import add_constant, constant, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import is_unused, remove, replace
from passes.cleanup.layout_regions import Region
from passes.cleanup.sites import Site, optional_input, place
from passes.cleanup.turns import Order, Turn, inverse, is_kept, perm


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per group of nodes that leaves fewer Transposes if it is turned.

    From each Transpose a region grows over all nodes, behind it and before it, that compute the
    same on turned data. Which of them are turned is the cheapest cut: a Transpose stays or comes
    where a turned value meets a reader that wants it as it was, or the other way round. A rewrite
    is due only if fewer are left than before, and no more elements to move.
    """
    for scope in scopes(model):
        site = Site(Shapes.of(model), opset(model, scope.function))
        seen = set[tuple[ir.Value, Order]]()
        for node in list(scope.graph):
            for value, order in _ends(node):
                # The Transpose may have gone with another one's region.
                if node.graph is None or (value, order) in seen:
                    continue
                region = Region(scope.graph, site)
                region.grow(value, order)
                seen.update(region.orders.items())
                turned = region.best()
                if turned is not None:
                    yield _rewrite(scope, node, region, turned, model)


def _ends(node: ir.Node) -> Iterator[tuple[ir.Value, Order]]:
    order = perm(node)
    if order is None or is_kept(order):
        return
    yield node.outputs[0], inverse(order)
    data = node.inputs[0]
    if data is not None and constant(data) is None:
        yield data, order


def _rewrite(
    scope: Scope, node: ir.Node, region: Region, turned: set[Hashable], model: ir.Model
) -> Rewrite:
    count = sum(member in turned for member in region.turns)
    return Rewrite(
        place(scope, node),
        f"{count} nodes around it can work on data in another order, with fewer Transposes",
        _Edit(scope, region, turned, model).apply,
    )


class _Edit:
    """Turn the nodes of a region that are to be turned."""

    def __init__(
        self, scope: Scope, region: Region, turned: set[Hashable], model: ir.Model
    ) -> None:
        self._graph = scope.graph
        self._in_function = scope.function is not None
        self._region = region
        self._turned = turned
        self._names = Names.of(model)
        self._shapes = region.site.shapes
        self._other: dict[ir.Value, ir.Value] = {}
        """By value, the turned one that is new."""
        self._read: dict[ir.Node, tuple[ir.Value | None, ...]] = {}
        """What nodes read before anything was replaced."""

    def apply(self) -> None:
        region = self._region
        old = [node for node in self._graph if node in region.turns and node in self._turned]
        self._read = {node: tuple(node.inputs) for node in old}
        for value in region.orders:
            if region.producer(value) not in self._turned and self._is_wanted_turned(value):
                self._other[value] = self._transposed(value)
        for node in old:
            self._replace(node, region.turns[node])
        exits = [(value, node) for value, nodes in region.exits.items() for node in nodes]
        for value, node in exits:
            if value in self._other or value in region.entries:
                replace(node.outputs[0], self._turned_of(value))
        for node in [node for _, node in exits] + old[::-1] + list(region.entries.values()):
            if node.graph is not None and all(is_unused(output) for output in node.outputs):
                remove(node)

    def _turned_of(self, value: ir.Value) -> ir.Value:
        entry = self._region.entries.get(value)
        # What an entry reads may be new, too: nodes are replaced in their order.
        turned = self._other[value] if entry is None else entry.inputs[0]
        assert turned is not None
        return turned

    def _is_wanted_turned(self, value: ir.Value) -> bool:
        """Whether one new Transpose serves nodes that were turned, or many Transposes."""
        region = self._region
        readers = [reader in self._turned for reader in region.readers(value)]
        return any(readers) and not sum(readers) == len(region.exits.get(value, ())) == 1

    def _transposed(self, value: ir.Value) -> ir.Value:
        node = self._transpose(value, self._region.orders[value])
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, node)
        else:
            self._graph.insert_before(self._graph[0], node)
        return node.outputs[0]

    def _transpose(self, value: ir.Value, order: Order) -> ir.Node:
        node = ir.node("Transpose", [value], {"perm": order})
        node.outputs[0].name = node.name = self._names.fresh(f"{value.name}_transposed")
        node.outputs[0].type = value.type
        return node

    def _replace(self, node: ir.Node, turn: Turn) -> None:
        count = max([len(node.inputs), *(index + 1 for index in turn.settings)])
        new = ir.Node(
            node.domain,
            turn.op_type or node.op_type,
            [self._input(node, index, turn) for index in range(count)],
            _attributes(node, turn),
            num_outputs=len(node.outputs),
            version=node.version,
            name=node.name,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )
        self._graph.insert_before(node, new)
        for index, (before, after) in enumerate(zip(node.outputs, new.outputs, strict=True)):
            order = turn.outputs.get(index)
            if order is None:
                self._take_over(before, after)
            else:
                self._turn(before, after, order)

    def _input(self, node: ir.Node, index: int, turn: Turn) -> ir.Value | None:
        value = optional_input(node, index)
        tensor = turn.settings.get(index)
        if tensor is None and index in turn.inputs:
            before = self._read[node][index]
            assert before is not None
            known = constant(before)
            if known is None:
                return self._turned_of(before)
            tensor = _turned(known, turn.inputs[index])
        if tensor is None:
            return value
        name = self._names.fresh(f"{node.outputs[0].name}_{index}")
        return add_constant(node, name, tensor, in_function=self._in_function)

    def _take_over(self, before: ir.Value, after: ir.Value) -> None:
        """Let a value with the same contents stand for another, with its name."""
        after.type, after.shape = before.type, before.shape
        self._shapes.learn(after, before)
        if not before.is_graph_output():
            after.name, before.name = before.name, None
        replace(before, after)

    def _turn(self, before: ir.Value, after: ir.Value, order: Order) -> None:
        """Let a turned value stand for another where it is wanted turned, and no further."""
        after.name = self._names.fresh(f"{before.name}_turned")
        after.type = before.type
        if before.shape is not None:
            after.shape = ir.Shape([before.shape[axis] for axis in order])
        self._other[before] = after
        if any(reader not in self._turned for reader in self._region.readers(before)):
            back = self._transpose(after, inverse(order))
            producer = after.producer()
            assert producer is not None
            self._graph.insert_after(producer, back)
            self._take_over(before, back.outputs[0])


def _attributes(node: ir.Node, turn: Turn) -> list[ir.Attr]:
    if turn.op_type is not None:
        return list(turn.attributes.values())
    return list({**node.attributes, **turn.attributes}.values())


def _turned(tensor: ir.TensorProtocol, order: Order) -> ir.TensorProtocol:
    array = tensor.numpy()
    lifted = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    return ir.Tensor(np.ascontiguousarray(lifted.transpose(order)), dtype=tensor.dtype)
