"""Writes the nodes and constants of dynamically quantized layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.rewrite.constants import Array, add_constant, add_initializer, constant_node
from graphopt.rewrite.grid import Grid, extent, grid_for
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import remove
from graphopt.rewrite.uses import replace as replace_uses
from passes.quantize.dynamic.stored import Stored, numbers

Granularity = Literal["channel", "tensor"]

_LAZY_BYTES = 4 << 20
"""Integers of more bytes than this are computed from the stored floats when they are read."""


@dataclass(frozen=True)
class WeightType:
    """How weights are stored.

    Args:
        dtype: INT8 (symmetric) or UINT8.
        granularity: One scale per output channel, or one for all.
        reduce_range: Leave one of the eight bits out.
    """

    dtype: ir.DataType
    granularity: Granularity
    reduce_range: bool

    def grid(
        self, real: Array, axis: int, *, symmetric: bool = False, given: Grid | None = None
    ) -> Grid:
        """Return the grid for a weight whose output channels lie along `axis`.

        Args:
            real: Its numbers.
            axis: Of its output channels.
            symmetric: Keep the zero point in the middle of an unsigned type.
            given: Is taken where the numbers lie on it and it is of this type.
        """
        along = axis if self.granularity == "channel" else None
        if given is not None and self._fits(given, along, symmetric) and given.holds(real):
            return given
        low, high = (end.astype(np.float64) for end in extent(real, along))
        symmetric = symmetric or self.dtype == ir.DataType.INT8
        if self.reduce_range:
            # A grid for a wider range, of which the weights fill half.
            if symmetric:
                low, high = low * 2, high * 2
            else:
                low, high = np.minimum(low, 0), np.maximum(high, 0)
                high = low + (high - low) * (255 / 127)
        return grid_for(low, high, self.dtype, symmetric=symmetric, narrow=symmetric, axis=along)

    def _fits(self, given: Grid, axis: int | None, symmetric: bool) -> bool:
        return (
            given.dtype == self.dtype
            and given.axis == axis
            and not self.reduce_range
            and (given.zero_point is None or not symmetric)
        )


@dataclass(frozen=True)
class Quantized:
    """A weight as integers.

    Args:
        stored: The integers.
        scale: float32; of the shape that broadcasts against what the layer computes.
        zero_point: None: 0.
    """

    stored: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None


@dataclass(frozen=True)
class Activation:
    """An activation as integers.

    Args:
        stored: uint8.
        scale: float32, of shape ().
        zero_point: uint8, of shape ().
    """

    stored: ir.Value
    scale: ir.Value
    zero_point: ir.Value


class Writer:
    """Adds nodes and constants to a model; what is shared is added once.

    Args:
        model: The model.
        weight_type: How weights are stored.
    """

    def __init__(self, model: ir.Model, weight_type: WeightType) -> None:
        self.model = model
        self.weight_type = weight_type
        self._functions = {
            id(scope.graph): scope.function for scope in scopes(model) if scope.function is not None
        }
        self._weights: dict[object, Quantized] = {}
        self._activations: dict[tuple[ir.Value, int], Activation] = {}

    def add(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        base: str,
        **attributes: Any,
    ) -> ir.Value:
        """Insert a node with one output in front of another; return the output."""
        node = self._node(op_type, inputs, (base,), attributes)
        _graph(before).insert_before(before, node)
        return node.outputs[0]

    def insert(self, before: ir.Node, node: ir.Node) -> None:
        """Insert a node that the caller made, and name it."""
        node.name = self.fresh(node.name or node.op_type)
        for output in node.outputs:
            if output.name is None:
                output.name = self.fresh(f"{node.name}_output")
        _graph(before).insert_before(before, node)

    def fresh(self, base: str) -> str:
        """Return a free name."""
        return Names.of(self.model).fresh(base)

    def constant(self, before: ir.Node, base: str, content: Array) -> ir.Value:
        """Add a constant that a node can read."""
        name = self.fresh(base)
        inside = id(_graph(before)) in self._functions
        return add_constant(before, name, ir.tensor(content, name=name), in_function=inside)

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Node:
        given = attributes or {}
        return ir.Node(
            "",
            op_type,
            inputs,
            [ir.convenience.convert_attribute(key, value) for key, value in given.items()],
            outputs=[ir.Value(name=self.fresh(name)) for name in outputs],
            name=self.fresh(f"{outputs[0]}_{op_type}"),
        )

    def activation(self, layer: ir.Node, value: ir.Value, dtype: ir.DataType) -> Activation:
        """Quantize what a layer reads, right where it is computed; once for all its readers.

        Args:
            layer: A node that reads it.
            value: What it reads.
            dtype: Its type. What is not float is cast first.
        """
        graph = _graph(layer)
        key = (value, id(graph))
        found = self._activations.get(key)
        if found is None:
            found = self._activations[key] = self._quantize(graph, value, dtype)
        return found

    def _quantize(self, graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> Activation:
        base = value.name or "activation"
        nodes = []
        real = value
        if dtype != ir.DataType.FLOAT:
            attributes = {"to": int(ir.DataType.FLOAT)}
            nodes.append(self._node("Cast", [value], [f"{base}_float"], attributes))
            real = nodes[0].outputs[0]
        names = [f"{base}_{what}" for what in ("quantized", "scale", "zero_point")]
        nodes.append(self._node("DynamicQuantizeLinear", [real], names))
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, nodes)
        else:
            graph.insert_before(graph[0], nodes)
        return Activation(*nodes[-1].outputs)

    def weight(
        self, weight: Stored, axis: int, scale_shape: Sequence[int], *, symmetric: bool = False
    ) -> Quantized:
        """Store a weight as integers, beside what holds it; once for all its readers.

        Args:
            weight: The weight.
            axis: Of its output channels.
            scale_shape: What one scale per channel is reshaped to.
            symmetric: Keep the zero point in the middle of an unsigned type.
        """
        key = (weight, axis, tuple(scale_shape), symmetric)
        if key not in self._weights:
            self._weights[key] = self._store(weight, axis, scale_shape, symmetric=symmetric)
        return self._weights[key]

    def _store(
        self, weight: Stored, axis: int, scale_shape: Sequence[int], *, symmetric: bool
    ) -> Quantized:
        real = weight.array()
        given = weight.given_grid()
        grid = self.weight_type.grid(real, axis, symmetric=symmetric, given=given)
        base = weight.root.name or "weight"
        stored = self.beside(weight, f"{base}_quantized", _integers(weight, grid, real))
        scale = grid.scale.astype(np.float32)
        zero = grid.zero_point
        if zero is not None and len(np.unique(zero)) == 1 and symmetric:
            zero = zero.reshape(-1)[0]
        zero_point = None
        if zero is not None:
            array = np.asarray(zero).astype(self.weight_type.dtype.numpy())
            zero_point = self.beside(weight, f"{base}_zero_point", ir.tensor(array))
        if scale.ndim:
            scale = scale.reshape(tuple(scale_shape))
        return Quantized(stored, self.beside(weight, f"{base}_scale", ir.tensor(scale)), zero_point)

    def beside(self, weight: Stored, base: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant where the constant of a weight is, so that all its readers see it."""
        name = self.fresh(base)
        tensor.name = name
        producer = weight.root.producer()
        if producer is not None and id(_graph(producer)) in self._functions:
            node = constant_node(name, tensor)
            _graph(producer).insert_after(producer, node)
            return node.outputs[0]
        graph = weight.root.graph
        if graph is None:
            raise ValueError(f"{weight.root.name!r} is in no graph")
        return add_initializer(graph, name, tensor)

    def replace(self, layer: ir.Node, last: ir.Value) -> None:
        """Let the readers of a layer's output read `last`, which takes its name; drop the layer."""
        old = layer.outputs[0]
        self.take_over(old, last)
        remove(layer)

    def remove(self, layer: ir.Node) -> None:
        """Drop a layer that nobody reads any more."""
        remove(layer)

    def use(self, domain: str, version: int, graph: ir.Graph) -> None:
        """Import another domain where a graph belongs."""
        self._functions.get(id(graph), self.model).opset_imports.setdefault(domain, version)

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Give a new value the readers, the name and what is known of an old one."""
        name, type_, shape = old.name, old.type, old.shape
        replace_uses(old, new)
        old.name = None
        new.name, new.type, new.shape = name, type_, shape
        new.metadata_props.update(old.metadata_props)
        new.meta.update(old.meta)
        for key in [key for key in self._activations if key[0] is old]:
            self._activations[new, key[1]] = self._activations.pop(key)


def _integers(weight: Stored, grid: Grid, real: Array) -> ir.TensorProtocol:
    if real.size < _LAZY_BYTES:
        return ir.tensor(grid.quantize(real))
    # The value goes with its last reader; the tensor stays.
    tensor, steps = weight.tensor, weight.steps

    def compute() -> ir.TensorProtocol:
        return ir.tensor(grid.quantize(numbers(tensor, steps)))

    return ir.LazyTensor(compute, grid.dtype, ir.Shape(real.shape), cache=False)


def _graph(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{node.name!r} is in no graph")
    return node.graph
