"""Where the bias of a layer stands in a float model and in the quantized one, and how it moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import add_constant, constant, is_op
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import address
from graphopt.rewrite.uses import only_user
from graphopt.rewrite.weights import Weight, weights
from passes.cleanup.folded import is_owned

Wide = npt.NDArray[np.float64]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
_BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True)
class Layer:
    """What a layer of the float model computes, its bias added.

    Args:
        at: The address of the layer.
        node: The layer.
        scope: Where it stands.
        value: What it computes; the output of the Add behind it, where that adds its bias.
        axis: The axis of output channels.
        channels: How many they are.
    """

    at: str
    node: ir.Node
    scope: Scope
    value: ir.Value
    axis: int
    channels: int


def layers(model: ir.Model) -> Iterator[Layer]:
    """Yield the layers of a float model in the order of the graph."""
    found: dict[ir.Node, tuple[int, int]] = {}
    for weight in weights(model):
        if not isinstance(weight, Weight):
            continue
        shape = weight.tensor.shape.numpy()
        for use in weight.uses:
            output, activation = use.axes.output, use.slot.activation
            if output is None or activation is None or use.node.op_type not in _AXES:
                continue
            if activation.input != 0:
                continue  # a weight on the left has its output channels as rows
            found[use.node] = (_AXES[use.node.op_type], int(shape[output]) * use.axes.groups)
    for scope in scopes(model):
        for node in scope.graph:
            if node in found:
                axis, channels = found[node]
                value = _tail(node, channels)
                yield Layer(address(node, scope), node, scope, value, axis, channels)


_AXES = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


def _tail(node: ir.Node, channels: int) -> ir.Value:
    value = node.outputs[0]
    add = only_user(value)
    if node.op_type != "MatMul" or add is None or not is_op(add, "Add"):
        return value
    other = add.inputs[1] if add.inputs[0] is value else add.inputs[0]
    tensor = constant(other)
    is_bias = tensor is not None and tensor.size in (1, channels)
    return add.outputs[0] if is_bias and add.graph is node.graph else value


class Matches:
    """The values of a quantized model that stand where those of the float model did.

    Args:
        quantized: The quantized model.
    """

    def __init__(self, quantized: ir.Model) -> None:
        self._values: dict[str, tuple[Scope, ir.Value]] = {}
        self._named: dict[str, list[tuple[Scope, ir.Value]]] = {}
        self._nodes: dict[str, ir.Node] = {}
        self._owners: dict[int, Scope] = {}
        for scope in scopes(quantized):
            self._owners[id(scope.graph)] = scope
            for node in scope.graph:
                if node.name:
                    self._nodes[scope.at(node.name)] = node
                for value in node.outputs:
                    if value.name:
                        self._values[scope.at(value.name)] = (scope, value)
                        self._named.setdefault(value.name, []).append((scope, value))

    def of(self, layer: Layer) -> tuple[Scope, ir.Value] | None:
        """Return the value as it is before it is rounded.

        It is found by its name, or by the name of a node that reads it.
        """
        found = self._found(layer)
        return None if found is None else (found[0], _unrounded(found[1]))

    def _found(self, layer: Layer) -> tuple[Scope, ir.Value] | None:
        found = self._values.get(layer.scope.at(layer.value.name))
        if found is not None:
            return found
        # Bodies of nodes without a name are addressed by position, which new nodes move.
        alike = self._named.get(layer.value.name or "", [])
        if layer.scope.owner is not None and len(alike) == 1:
            return alike[0]
        for node, index in layer.value.uses():
            reader = self._nodes.get(layer.scope.at(node.name)) if node.name else None
            if reader is None or reader.op_type != node.op_type or index >= len(reader.inputs):
                continue
            value = reader.inputs[index]
            scope = None if reader.graph is None else self._owners.get(id(reader.graph))
            if value is not None and scope is not None and value.producer() is not None:
                return scope, value
        return None


def _unrounded(value: ir.Value) -> ir.Value:
    """Walk back over a QuantizeLinear and the DequantizeLinear behind it."""
    producer = value.producer()
    stored = producer.inputs[0] if producer and is_op(producer, "DequantizeLinear") else None
    writer = None if stored is None else stored.producer()
    if writer is None or not is_op(writer, "QuantizeLinear") or writer.inputs[0] is None:
        return value
    return writer.inputs[0]


@dataclass(frozen=True)
class Bias:
    """A constant that is added to each channel of a layer's output.

    Args:
        node: The node that reads it.
        index: As which input; there may be none yet.
        channels: How many channels there are.
        quantized: The DequantizeLinear in front of it; None: it is stored as floats.
        scope: Where it stands.
    """

    node: ir.Node
    index: int
    channels: int
    quantized: ir.Node | None
    scope: Scope

    @property
    def _held(self) -> ir.Value | None:
        node = self.quantized or self.node
        index = 0 if self.quantized is not None else self.index
        return node.inputs[index] if index < len(node.inputs) else None

    @property
    def tensor(self) -> ir.TensorProtocol | None:
        """The constant as it is stored; None where there is none yet."""
        return constant(self._held)

    def moved(self, shift: Wide) -> ir.TensorProtocol | None:
        """Return the constant with a shift of each channel added; None where nothing changes."""
        held = self._held
        old = constant(held)
        if old is None:
            return self._new(shift)
        if self.quantized is None:
            before = np.asarray(old.numpy(), np.float64)
            after = (before + self._shaped(shift, before)).astype(old.dtype.numpy())
            if np.array_equal(after, old.numpy()) or not np.isfinite(after).all():
                return None
            return ir.Tensor(after, dtype=old.dtype, name=old.name)
        grid = self._grid(old.dtype)
        stored = old.numpy()
        real = grid.dequantize(stored)
        moved = grid.quantize(real + self._shaped(shift, real))
        if np.array_equal(moved, stored):
            return None
        return ir.Tensor(moved, dtype=old.dtype, name=old.name)

    def _new(self, shift: Wide) -> ir.TensorProtocol | None:
        weight = constant(self.node.inputs[1])
        dtype = weight.dtype if weight is not None and weight.dtype in _FLOATS else None
        if not shift.any():
            return None
        return ir.Tensor((shift).astype((dtype or ir.DataType.FLOAT).numpy()))

    def _shaped(self, shift: Wide, like: npt.NDArray[np.generic]) -> Wide:
        return shift.reshape(like.shape) if like.size == shift.size else shift

    def _grid(self, dtype: ir.DataType) -> Grid:
        assert self.quantized is not None
        scale = constant(self.quantized.inputs[1])
        zero = constant(self.quantized.inputs[2]) if len(self.quantized.inputs) > 2 else None
        assert scale is not None
        axis = self.quantized.attributes.get_int("axis", 1)
        return Grid(
            dtype,
            scale.numpy().astype(np.float64),
            None if zero is None or not np.any(zero.numpy()) else zero.numpy().astype(np.int32),
            axis if scale.size > 1 else None,
        )

    def put(self, tensor: ir.TensorProtocol, model: ir.Model) -> None:
        """Let the layer read another constant."""
        node = self.quantized or self.node
        index = 0 if self.quantized is not None else self.index
        held = self._held
        if held is not None and held.is_initializer() and is_owned(held):
            tensor.name = held.name
            held.const_value = tensor
            held.shape = ir.Shape(tensor.shape.numpy())
            return
        base = held.name if held is not None and held.name else f"{self.node.name or 'layer'}_bias"
        name = Names.of(model).fresh(base if held is None else f"{base}_corrected")
        tensor.name = name
        value = add_constant(node, name, tensor, in_function=self.scope.function is not None)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)


def bias_of(scope: Scope, value: ir.Value, channels: int) -> Bias | str:
    """Find the bias of what a quantized model computes, or say why there is none to correct."""
    node = value.producer()
    if node is None:
        return "nothing computes it"
    index = _BIAS_INPUT.get(node.op_type) if is_op(node, *_BIAS_INPUT) else None
    if index is None and is_op(node, "Add"):
        index = next((i for i in (0, 1) if _is_constant(node.inputs[i])), None)
    if index is None:
        return f"{node.op_type} adds no bias"
    held = node.inputs[index] if index < len(node.inputs) else None
    if held is None:
        integers = is_op(node.inputs[0].producer() if node.inputs[0] else None, "DequantizeLinear")
        if integers or node.op_type == "Gemm":
            return "it has no bias"
        return Bias(node, index, channels, None, scope)
    return _held_bias(node, index, channels, scope)


def _held_bias(node: ir.Node, index: int, channels: int, scope: Scope) -> Bias | str:
    held = node.inputs[index]
    tensor, quantized = constant(held), None
    producer = None if held is None else held.producer()
    if tensor is None and producer is not None and is_op(producer, "DequantizeLinear"):
        quantized = producer
        tensor = constant(producer.inputs[0])
        if constant(producer.inputs[1]) is None or len(producer.outputs[0].uses()) > 1:
            return "its bias is shared, or on a computed scale"
    if tensor is None:
        return "its bias is computed"
    if quantized is None and tensor.dtype not in _FLOATS:
        return f"its bias is of type {tensor.dtype.name}"
    if tensor.size != channels or max((0, *tensor.shape.numpy())) != channels:
        return "its bias is not one number per channel"
    beta = node.attributes.get("beta")
    if beta is not None and (beta.is_ref() or beta.as_float() != 1.0):
        return "its bias is multiplied by beta"
    return Bias(node, index, channels, quantized, scope)


def _is_constant(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if constant(value) is not None:
        return True
    return is_op(producer, "DequantizeLinear") and constant(producer.inputs[0]) is not None  # type: ignore[union-attr] # is_op of None is False
