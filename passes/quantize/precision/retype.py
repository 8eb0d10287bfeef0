"""Change the type that nodes compute in, one at a time, with casts where types meet.

After each change the model is whole: what a changed node reads is cast, what it writes is cast
back. A cast that meets its opposite goes, and so nothing is left of the casts between two changed
neighbours, in whatever order they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.rewrite.constants import Array, add_initializer, constant, constant_node, is_op
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import is_unused, remove
from graphopt.rewrite.value_types import ValueTypes
from passes.quantize.precision.positions import SAID, Positions

_LAZY_BYTES = 4 << 20


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
        self._suffix = target.name.lower()
        self._functions = {id(s.graph) for s in scopes(model) if s.function is not None}
        self._restoring: dict[ir.Node, tuple[ir.Value, str | None]] = {}
        self._casts: dict[ir.Value, ir.Node] = {}
        self._constants: dict[tuple[ir.Value, float | None], ir.Value] = {}

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
        self._vanish(node)

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
        stored = self._converted(value, None)
        name = value.name
        readers = list(value.uses())
        cast = self._cast_node(stored, source, self.fresh(f"{name}_restored"))
        self._insert_behind(stored, cast, self._owner(value))
        restored = cast.outputs[0]
        for user, index in readers:
            user.replace_input_with(index, restored)
        self.types.learn(restored, source)
        self._tidy(value)

    def doubled(self) -> list[ir.Value]:
        """Return constants that are in the target type, and are read in their own too."""
        return [
            value
            for value, clamp in self._constants
            if clamp is None and value.uses() and constant(value) is not None
        ]

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
        self._cast_back(graph, value, behind=node)

    def _cast_back(
        self, graph: ir.Graph, value: ir.Value, behind: ir.Node | None, *, keep: bool = False
    ) -> None:
        source = self.types(value) or ir.DataType.FLOAT
        self._retyped(value)
        opposite = self._casts.pop(value, None)
        readers = [use for use in value.uses() if use.node is not opposite]
        returned = [index for index, output in enumerate(graph.outputs) if output is value]
        if opposite is not None:
            # Somebody reads it in the target type already.
            self._replace(opposite.outputs[0], value, graph)
            self._drop(opposite)
        if not readers and not returned:
            return
        name = value.name
        back = self._cast_node(value, source, self.fresh(f"{name}_restored"))
        if behind is None:
            self._insert_first(graph, back)
        else:
            graph.insert_after(behind, back)
        restored = back.outputs[0]
        restored.shape = value.shape
        self.types.learn(restored, source)
        for user, index in readers:
            user.replace_input_with(index, restored)
        for index in returned:
            graph.outputs[index] = restored
        if not keep:
            restored.name, value.name = name, restored.name
            restored.metadata_props.update(value.metadata_props)
            self._restoring[back] = (value, name)

    @staticmethod
    def _replace(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
        for user, index in list(old.uses()):
            user.replace_input_with(index, new)
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new

    def _vanish(self, node: ir.Node) -> None:
        """Remove a cast that has become one to the type which a value has."""
        source, graph = node.inputs[0] if node.inputs else None, node.graph
        if not is_op(node, "Cast") or source is None or graph is None:
            return
        written = node.outputs[0]
        if self.types(source) == self.types(written) and not written.is_graph_output():
            self._replace(written, source, graph)
            graph.remove(node, safe=True)

    def _body(self, node: ir.Node, body: ir.Graph, where: Positions) -> None:
        for index in where.inputs:
            self._enter(body, body.inputs[index])
        shift = 1 if is_op(node, "Loop") else 0
        for index in where.outputs:
            self._leave(body, index + shift)

    def _enter(self, graph: ir.Graph, value: ir.Value) -> None:
        """Let an input of a graph have the target type."""
        if self.types(value) != self.target:
            self._cast_back(graph, value, behind=None, keep=True)

    def _leave(self, graph: ir.Graph, index: int) -> None:
        """Let an output of a graph have the target type."""
        value = graph.outputs[index]
        if self.types(value) == self.target:
            return
        new = self._in_target(value, None)
        if self._owner(new) is not graph or new.is_graph_output() or new.is_graph_input():
            identity = ir.Node("", "Identity", [new], name=self.fresh(f"{value.name}_output"))
            identity.outputs[0].name = self.fresh(f"{value.name}_{self._suffix}")
            graph.append(identity)
            new = identity.outputs[0]
        new.shape = new.shape or value.shape
        self._retyped(new)
        graph.outputs[index] = new
        self._tidy(value)

    def _in_target(self, value: ir.Value, clamp: float | None) -> ir.Value:
        """Return what holds a value in the target type: what it was cast from, or a cast of it."""
        if constant(value) is not None:
            return self._converted(value, clamp)
        producer = value.producer()
        if producer is not None and is_op(producer, "Cast"):
            origin = producer.inputs[0]
            if self.types(origin) == self.target and origin is not None:
                return origin
        if value not in self._casts:
            node = self._cast_node(value, self.target, self.fresh(f"{value.name}_{self._suffix}"))
            node.outputs[0].shape = value.shape
            self._insert_behind(value, node, self._owner(value))
            self.types.learn(node.outputs[0], self.target)
            self._casts[value] = node
        return self._casts[value].outputs[0]

    def _converted(self, value: ir.Value, clamp: float | None) -> ir.Value:
        key = (value, clamp)
        if key not in self._constants:
            tensor = constant(value)
            if tensor is None:
                raise ValueError(f"{value.name!r} is no constant")
            name = self.fresh(f"{value.name}_{self._suffix}")
            converted = _tensor(tensor, self.target, clamp, name)
            self._constants[key] = self._beside(value, name, converted)
            self.types.learn(self._constants[key], self.target)
        return self._constants[key]

    def _beside(self, value: ir.Value, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        owner, producer = self._owner(value), value.producer()
        if producer is not None and id(owner) in self._functions:
            node = constant_node(name, tensor)
            owner.insert_after(producer, node)
            return node.outputs[0]
        return add_initializer(owner, name, tensor)

    def _tidy(self, value: ir.Value) -> None:
        """Remove a cast or a constant that nobody reads any more; its name becomes free."""
        if not is_unused(value):
            return
        producer = value.producer()
        if producer is None:
            self._forget_constant(value)
        elif is_op(producer, "Constant"):
            remove(producer)
            self._rename_constant(value)
        elif is_op(producer, "Cast"):
            self._drop(producer)

    def _forget_constant(self, value: ir.Value) -> None:
        if value.is_initializer() and not value.is_graph_input() and value.graph is not None:
            value.graph.initializers.pop(value.name or "", None)
            self._rename_constant(value)

    def _rename_constant(self, value: ir.Value) -> None:
        """Give the name of a constant that is gone to what has taken its place."""
        new = self._constants.get((value, None))
        name = value.name
        if new is None or name is None:
            return
        value.name = None
        graph = new.graph
        if new.is_initializer() and graph is not None:
            graph.initializers.pop(new.name or "")
            new.name = name
            graph.initializers[name] = new
        else:
            new.name = name

    def _drop(self, cast: ir.Node) -> None:
        source, written = cast.inputs[0], cast.outputs[0]
        if cast.graph is None or not is_unused(written):
            return
        cast.graph.remove(cast, safe=True)
        value, name = self._restoring.pop(cast, (None, None))
        # What it has cast back may have given way to something else since.
        if value is not None and value is source:
            written.name = None
            value.name = name

    def _retyped(self, value: ir.Value) -> None:
        value.type = ir.TensorType(self.target)
        self.types.learn(value, self.target)

    def _cast_node(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        output = ir.Value(name=name, type=ir.TensorType(to))
        attribute = ir.AttrInt64("to", int(to))
        title = self.fresh(f"{name}_cast")
        return ir.Node("", "Cast", [value], [attribute], outputs=[output], name=title)

    def _insert_behind(self, value: ir.Value, node: ir.Node, graph: ir.Graph) -> None:
        producer = value.producer()
        if producer is None:
            self._insert_first(graph, node)
        else:
            graph.insert_after(producer, node)

    @staticmethod
    def _insert_first(graph: ir.Graph, node: ir.Node) -> None:
        if len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)

    @staticmethod
    def _owner(value: ir.Value) -> ir.Graph:
        producer = value.producer()
        graph = value.graph if producer is None else producer.graph
        if not isinstance(graph, ir.Graph):
            raise ValueError(f"{value.name!r} is in no graph")
        return graph


def cast(array: Array, to: ir.DataType, clamp: float | None = None) -> Array:
    """Return an array in another float type, infinities as they are."""
    if clamp is not None:
        array = np.clip(array, -clamp, clamp)
    with np.errstate(over="ignore"):
        return array.astype(to.numpy())


def _tensor(
    tensor: ir.TensorProtocol, to: ir.DataType, clamp: float | None, name: str
) -> ir.TensorProtocol:
    """Return a tensor in another type; a big one is converted when it is read."""

    def compute() -> ir.TensorProtocol:
        return ir.Tensor(cast(tensor.numpy(), to, clamp), dtype=to, name=name)

    if tensor.nbytes < _LAZY_BYTES:
        return compute()
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(compute, to, shape, cache=False, name=name)


def largest(dtype: ir.DataType) -> float:
    """Return the largest finite number of a float type."""
    return float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call] # no stubs


def calls_of(model: ir.Model, function: ir.Function) -> list[tuple[ir.Node, Scope]]:
    """Return the nodes that call a function."""
    return [
        (node, scope)
        for scope in scopes(model)
        for node in scope.graph
        if node.op_identifier() == function.identifier()
    ]
