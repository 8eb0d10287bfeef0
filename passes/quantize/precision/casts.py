"""Casts between the nodes that compute in another float type and those that do not."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from graphopt.rewrite.constants import is_op
from graphopt.rewrite.uses import is_unused
from graphopt.rewrite.value_types import ValueTypes
from passes.quantize.precision.places import insert_behind, insert_first, read_instead


class Casts:
    """The casts to another float type and back; one that meets its opposite goes.

    Args:
        types: The types of the values of a model; learns what changes.
        target: The type.
        fresh: Returns a free name.
    """

    def __init__(self, types: ValueTypes, target: ir.DataType, fresh: Callable[[str], str]) -> None:
        self._types = types
        self._target = target
        self._fresh = fresh
        self._restoring: dict[ir.Node, tuple[ir.Value, str | None]] = {}
        self._casts: dict[ir.Value, ir.Node] = {}

    def in_target(self, value: ir.Value) -> ir.Value:
        """Return what holds a value in the target type: what it was cast from, or a cast of it."""
        producer = value.producer()
        if producer is not None and is_op(producer, "Cast"):
            origin = producer.inputs[0]
            if self._types(origin) == self._target and origin is not None:
                return origin
        if value not in self._casts:
            name = self._fresh(f"{value.name}_{self._target.name.lower()}")
            node = self._node(value, self._target, name)
            node.outputs[0].shape = value.shape
            insert_behind(value, node)
            self._types.learn(node.outputs[0], self._target)
            self._casts[value] = node
        return self._casts[value].outputs[0]

    def restored(self, stored: ir.Value, source: ir.DataType, name: str) -> ir.Value:
        """Return a constant of the target type, cast to another.

        Args:
            stored: The constant.
            source: The type to cast it to.
            name: The name of the constant that it stands for.
        """
        node = self._node(stored, source, self._fresh(f"{name}_restored"))
        insert_behind(stored, node)
        self._types.learn(node.outputs[0], source)
        return node.outputs[0]

    def cast_back(
        self, graph: ir.Graph, value: ir.Value, behind: ir.Node | None, *, keep: bool = False
    ) -> None:
        """Let a value have the target type; whoever has read it reads it cast back.

        Args:
            graph: The graph that it belongs to.
            value: The value.
            behind: The node that computes it; None: it is an input of the graph.
            keep: Whether it keeps its name; without it, the cast value takes the name.
        """
        source = self._types(value) or ir.DataType.FLOAT
        self.retype(value)
        opposite = self._casts.pop(value, None)
        readers = [use for use in value.uses() if use.node is not opposite]
        returned = [index for index, output in enumerate(graph.outputs) if output is value]
        if opposite is not None:
            # Somebody reads it in the target type already.
            read_instead(opposite.outputs[0], value, graph)
            self.drop(opposite)
        if not readers and not returned:
            return
        name = value.name
        back = self._node(value, source, self._fresh(f"{name}_restored"))
        if behind is None:
            insert_first(graph, back)
        else:
            graph.insert_after(behind, back)
        restored = back.outputs[0]
        restored.shape = value.shape
        self._types.learn(restored, source)
        for user, index in readers:
            user.replace_input_with(index, restored)
        for index in returned:
            graph.outputs[index] = restored
        if not keep:
            restored.name, value.name = name, restored.name
            restored.metadata_props.update(value.metadata_props)
            self._restoring[back] = (value, name)

    def retype(self, value: ir.Value) -> None:
        """Let a value have the target type."""
        value.type = ir.TensorType(self._target)
        self._types.learn(value, self._target)

    def vanish(self, node: ir.Node) -> None:
        """Remove a cast that has become one to the type which a value has."""
        source, graph = node.inputs[0] if node.inputs else None, node.graph
        if not is_op(node, "Cast") or source is None or graph is None:
            return
        written = node.outputs[0]
        if self._types(source) == self._types(written) and not written.is_graph_output():
            read_instead(written, source, graph)
            graph.remove(node, safe=True)

    def drop(self, cast: ir.Node) -> None:
        """Remove a cast that nobody reads any more; what it has cast back gets its name again."""
        source, written = cast.inputs[0], cast.outputs[0]
        if cast.graph is None or not is_unused(written):
            return
        cast.graph.remove(cast, safe=True)
        value, name = self._restoring.pop(cast, (None, None))
        # What it has cast back may have given way to something else since.
        if value is not None and value is source:
            written.name = None
            value.name = name

    def _node(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        output = ir.Value(name=name, type=ir.TensorType(to))
        attribute = ir.AttrInt64("to", int(to))
        title = self._fresh(f"{name}_cast")
        return ir.Node("", "Cast", [value], [attribute], outputs=[output], name=title)
