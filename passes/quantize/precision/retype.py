"""Change the type that nodes compute in, one at a time, with casts where types meet.

After each change the model is whole: what a changed node reads is cast, what it writes is cast
back. A cast that meets its opposite goes, and so nothing is left of the casts between two changed
neighbours, in whatever order they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import bodies
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import is_unused, remove
from graphopt.rewrite.value_types import ValueTypes
from passes.quantize.precision.casts import Casts
from passes.quantize.precision.converted_constants import ConvertedConstants
from passes.quantize.precision.float_arrays import cast
from passes.quantize.precision.places import owner
from passes.quantize.precision.positions import SAID, Positions


class Retyper:
    """Gives nodes another float type.

    Args:
        model: The model.
        sources: The types that change.
        target: What they become.
    """

    def __init__(
        self, model: ir.Model, sources: Iterable[ir.DataType], target: ir.DataType
    ) -> None:
        self.model = model
        self.sources = frozenset(sources)
        self.target = target
        self.types = ValueTypes(model)
        self._casts = Casts(self.types, target, self.fresh)
        self._constants = ConvertedConstants(model, self.types, target, self.fresh)

    def node(self, node: ir.Node, where: Positions, clamp: float | None = None) -> None:
        """Let a node compute in the target type.

        Args:
            node: The node.
            where: What of it changes.
            clamp: The magnitude that constants it reads are cut off at; None: they are not.
        """
        self._change_attribute(node, where, clamp)
        for index in where.inputs:
            self._read(node, index, clamp)
        for body in bodies(node):
            self._body(node, body, where)
        for index in where.outputs:
            self._write(node, index)
        self._casts.vanish(node)

    def function(self, function: ir.Function, calls: Sequence[ir.Node]) -> None:
        """Let a function take and return the target type, for all of its calls."""
        for index, value in enumerate(function.inputs):
            if self.types(value) in self.sources:
                for call in calls:
                    if index < len(call.inputs):
                        self._read(call, index, None)
                self._enter(function.graph, value)
        for index, value in enumerate(function.outputs):
            if self.types(value) in self.sources:
                self._leave(function.graph, index)
                for call in calls:
                    if index < len(call.outputs):
                        self._write(call, index)

    def interface(self) -> None:
        """Let the model itself take and return the target type."""
        graph = self.model.graph
        for value in list(graph.inputs):
            if value.is_initializer():
                continue
            if self.types(value) in self.sources:
                self._enter(graph, value)
        for index, value in enumerate(graph.outputs):
            if self.types(value) not in self.sources:
                continue
            name = value.name
            self._leave(graph, index)
            new = graph.outputs[index]
            if new.name != name:
                if value.name == name and value is not new:
                    value.name = self.fresh(f"{name}_restored")
                new.name = name

    def store(self, value: ir.Value) -> None:
        """Keep a constant in the target type, and cast it back for all who read it."""
        source = self.types(value)
        if source is None:
            raise ValueError(f"{value.name!r} has no type")
        stored = self._constants.of(value, None)
        readers = list(value.uses())
        restored = self._casts.restored(stored, source, value.name or "")
        for user, index in readers:
            user.replace_input_with(index, restored)
        self._tidy(value)

    def doubled(self) -> list[ir.Value]:
        """Return constants that are in the target type, and are read in their own too."""
        return self._constants.doubled()

    def fresh(self, base: str) -> str:
        """Return a free name."""
        return Names.of(self.model).fresh(base)

    def _change_attribute(self, node: ir.Node, where: Positions, clamp: float | None) -> None:
        name = SAID.get(node.op_type)
        if name is None or not where.outputs or not is_op(node, node.op_type):
            return
        if name != "value":
            node.attributes[name] = ir.AttrInt64(name, int(self.target))
            return
        filled = node.attributes.get(name)
        array = np.zeros(1, np.float32) if filled is None else filled.as_tensor().numpy()
        tensor = ir.Tensor(cast(array, self.target, clamp), dtype=self.target)
        node.attributes[name] = ir.AttrTensor(name, tensor)

    def _read(self, node: ir.Node, index: int, clamp: float | None) -> None:
        value = node.inputs[index]
        if value is None or self.types(value) == self.target:
            return
        node.replace_input_with(index, self._in_target(value, clamp))
        self._tidy(value)

    def _write(self, node: ir.Node, index: int) -> None:
        """Let an output have the target type; whoever has read it reads it cast back."""
        value = node.outputs[index]
        graph = node.graph
        if self.types(value) == self.target or graph is None:
            return
        self._casts.cast_back(graph, value, behind=node)

    def _body(self, node: ir.Node, body: ir.Graph, where: Positions) -> None:
        for index in where.inputs:
            self._enter(body, body.inputs[index])
        shift = 1 if is_op(node, "Loop") else 0
        for index in where.outputs:
            self._leave(body, index + shift)

    def _enter(self, graph: ir.Graph, value: ir.Value) -> None:
        """Let an input of a graph have the target type."""
        if self.types(value) != self.target:
            self._casts.cast_back(graph, value, behind=None, keep=True)

    def _leave(self, graph: ir.Graph, index: int) -> None:
        """Let an output of a graph have the target type."""
        value = graph.outputs[index]
        if self.types(value) == self.target:
            return
        new = self._in_target(value, None)
        if owner(new) is not graph or new.is_graph_output() or new.is_graph_input():
            identity = ir.Node("", "Identity", [new], name=self.fresh(f"{value.name}_output"))
            identity.outputs[0].name = self.fresh(f"{value.name}_{self.target.name.lower()}")
            graph.append(identity)
            new = identity.outputs[0]
        new.shape = new.shape or value.shape
        self._casts.retype(new)
        graph.outputs[index] = new
        self._tidy(value)

    def _in_target(self, value: ir.Value, clamp: float | None) -> ir.Value:
        if constant(value) is not None:
            return self._constants.of(value, clamp)
        return self._casts.in_target(value)

    def _tidy(self, value: ir.Value) -> None:
        """Remove a cast or a constant that nobody reads any more; its name becomes free."""
        if not is_unused(value):
            return
        producer = value.producer()
        if producer is None:
            self._constants.drop_initializer(value)
        elif is_op(producer, "Constant"):
            remove(producer)
            self._constants.take_name(value)
        elif is_op(producer, "Cast"):
            self._casts.drop(producer)
