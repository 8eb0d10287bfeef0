"""Constants in another float type; they take over the names of those they stand for."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.rewrite.constants import add_initializer, constant, constant_node
from graphopt.rewrite.value_types import ValueTypes
from passes.quantize.precision.float_arrays import converted
from passes.quantize.precision.places import owner


class ConvertedConstants:
    """What the constants of a model are in another float type, each converted once.

    Args:
        model: The model.
        types: The types of its values; learns those of the new ones.
        target: The type.
        fresh: Returns a free name.
    """

    def __init__(
        self,
        model: ir.Model,
        types: ValueTypes,
        target: ir.DataType,
        fresh: Callable[[str], str],
    ) -> None:
        self._types = types
        self._target = target
        self._fresh = fresh
        self._functions = {id(s.graph) for s in scopes(model) if s.function is not None}
        self._made: dict[tuple[ir.Value, float | None], ir.Value] = {}

    def of(self, value: ir.Value, clamp: float | None) -> ir.Value:
        """Return a constant in the target type.

        Args:
            value: The constant.
            clamp: The magnitude that it is cut off at; None: it is not.
        """
        key = (value, clamp)
        if key not in self._made:
            tensor = constant(value)
            if tensor is None:
                raise ValueError(f"{value.name!r} is no constant")
            name = self._fresh(f"{value.name}_{self._target.name.lower()}")
            self._made[key] = self._beside(
                value, name, converted(tensor, self._target, clamp, name)
            )
            self._types.learn(self._made[key], self._target)
        return self._made[key]

    def doubled(self) -> list[ir.Value]:
        """Return constants that are in the target type, and are read in their own too."""
        return [
            value
            for value, clamp in self._made
            if clamp is None and value.uses() and constant(value) is not None
        ]

    def drop_initializer(self, value: ir.Value) -> None:
        """Remove an initializer that nobody reads any more; its name becomes free."""
        if value.is_initializer() and not value.is_graph_input() and value.graph is not None:
            value.graph.initializers.pop(value.name or "", None)
            self.take_name(value)

    def take_name(self, value: ir.Value) -> None:
        """Give the name of a constant that is gone to what has taken its place."""
        new = self._made.get((value, None))
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

    def _beside(self, value: ir.Value, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        graph, producer = owner(value), value.producer()
        if producer is not None and id(graph) in self._functions:
            node = constant_node(name, tensor)
            graph.insert_after(producer, node)
            return node.outputs[0]
        return add_initializer(graph, name, tensor)
