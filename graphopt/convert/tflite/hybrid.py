"""What TFLite's hybrid kernels do: 8-bit weights times activations rounded to 8 bits as they run.

Weights of a file with dynamic range quantization are int8, activations are float, and the kernels
of convolutions and of fully connected layers round each sample's activations before they multiply:
https://ai.google.dev/edge/litert/models/post_training_quant. tf2onnx rounds the activations of a
whole batch together, so that samples depend on each other, and biases too, which TFLite leaves as
they are; and it rounds nothing in front of convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.movers import MOVERS, maker
from graphopt.rewrite.constants import array, opset

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_REDUCE_TAKES_AXES = 18
_LOWEST, _HIGHEST = -128.0, 127.0


def explicit_floats(path: Path) -> frozenset[str]:
    """Name the int8 tensors that a file turns into floats itself: no hybrid kernel sees them."""
    from tf2onnx.tflite.BuiltinOperator import BuiltinOperator
    from tf2onnx.tflite.Model import Model

    model: Any = Model.GetRootAsModel(bytearray(path.read_bytes()), 0)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(at) for at in range(graph.OperatorsLength())]
    return frozenset(
        (graph.Tensors(operator.Inputs(0)).Name() or b"").decode()
        for operator in operators
        if _code(model, operator) == BuiltinOperator.DEQUANTIZE
    )


def _code(model: Any, operator: Any) -> int:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # The field of 8 bits came first, and is full.
    return max(int(code.DeprecatedBuiltinCode()), int(code.BuiltinCode()))


def round_as_hybrid_kernels(model: ir.Model, floats: frozenset[str]) -> bool:
    """Write the rounding of hybrid kernels into what tf2onnx made of a file.

    Args:
        model: The export. It is edited.
        floats: What `explicit_floats` returns.

    Returns:
        Whether there is any.
    """
    graph = model.graph
    together = _without_rounding_of_batches(graph)
    version = opset(model)
    found = False
    for node in list(graph):
        if node.op_type not in _PRODUCTS or node.inputs[0] is None:
            continue
        scales = _scales(node, floats)
        if scales is None or _is_quantized(node.inputs[0]):
            continue
        found = True
        is_conv = node.op_type == "Conv"
        asymmetric = len(scales) > 1 if is_conv else node in together
        axes = (1, 2, 3) if is_conv else (-1,)
        rounding = _Rounding(graph, node, axes, version)
        node.replace_input_with(0, rounding.written(node.inputs[0], asymmetric=asymmetric))
    return found


def _without_rounding_of_batches(graph: ir.Graph) -> set[ir.Node]:
    """Take tf2onnx's rounding out; return the nodes whose kernels have a zero point."""
    nodes: set[ir.Node] = set()
    for rounded in [node for node in graph if node.op_type == "DynamicQuantizeLinear"]:
        source = rounded.inputs[0]
        assert source is not None
        for dequantized in [use.node for use in rounded.outputs[0].uses()]:
            nodes |= set(_products(dequantized.outputs[0]))
            dequantized.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove(dequantized, safe=True)
        graph.remove(rounded, safe=True)
    return nodes


def _products(value: ir.Value) -> Iterator[ir.Node]:
    for use in value.uses():
        if use.node.op_type in _PRODUCTS:
            yield use.node
        elif use.node.op_type in MOVERS:
            yield from _products(use.node.outputs[0])


def _scales(node: ir.Node, floats: frozenset[str]) -> Sequence[float] | None:
    """The scales of 8-bit weights; None: they are something else."""
    source = maker(node.inputs[1])
    if source is None or source.op_type != "DequantizeLinear":
        return None
    stored, scale = source.inputs[0], array(source.inputs[1])
    if stored is None or stored.dtype != ir.DataType.INT8 or array(stored) is None:
        return None
    return None if scale is None or stored.name in floats else np.ravel(scale).tolist()


def _is_quantized(activations: ir.Value) -> bool:
    source = maker(activations)
    return source is not None and source.op_type == "DequantizeLinear"


class _Rounding:
    """Writes one rounding in front of a node.

    Args:
        graph: Where.
        before: The node.
        axes: The axes of one sample: those that share a scale.
        version: Of the default operator set.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, axes: Sequence[int], version: int) -> None:
        self._graph, self._before, self._axes, self._version = graph, before, axes, version

    def written(self, value: ir.Value, *, asymmetric: bool) -> ir.Value:
        """Round to 8 bits and back: scale times (clip(round(x / scale + zero point)) - zero point).

        Halves are rounded away from zero, as C++ does. The arithmetic is that of
        `AsymmetricQuantizeFloats` and `SymmetricQuantizeFloats` in TFLite's tensor_utils, in
        float32: a sample that is all zeros has the scale 1.
        """
        zero, one = self._number(0.0), self._number(1.0)
        low = self._node("Min", self._reduced("ReduceMin", value), zero)
        high = self._node("Max", self._reduced("ReduceMax", value), zero)
        if asymmetric:
            width, steps = self._node("Sub", high, low), _HIGHEST - _LOWEST
        else:
            width, steps = self._node("Max", high, self._node("Neg", low)), _HIGHEST
        scale = self._node("Div", width, self._number(steps))
        scale = self._node("Where", self._node("Equal", width, zero), one, scale)
        scaled = self._node("Mul", value, self._node("Div", one, scale))
        lowest, highest = self._number(_LOWEST), self._number(_HIGHEST)
        if not asymmetric:
            clipped = self._clipped(self._rounded(scaled), self._number(-_HIGHEST), highest)
            return self._node("Mul", clipped, scale)
        point = self._rounded(self._node("Sub", lowest, self._node("Div", low, scale)))
        point = self._clipped(point, lowest, highest)
        clipped = self._clipped(self._rounded(self._node("Add", point, scaled)), lowest, highest)
        return self._node("Mul", self._node("Sub", clipped, point), scale)

    def _rounded(self, value: ir.Value) -> ir.Value:
        magnitude = self._node("Add", self._node("Abs", value), self._number(0.5))
        return self._node("Mul", self._node("Sign", value), self._node("Floor", magnitude))

    def _clipped(self, value: ir.Value, lowest: ir.Value, highest: ir.Value) -> ir.Value:
        return self._node("Min", self._node("Max", value, lowest), highest)

    def _reduced(self, op_type: str, value: ir.Value) -> ir.Value:
        if self._version >= _REDUCE_TAKES_AXES:
            return self._node(op_type, value, self._constant(np.array(self._axes, np.int64)))
        return self._node(op_type, value, axes=list(self._axes))

    def _number(self, number: float) -> ir.Value:
        return self._constant(np.array(number, np.float32))

    def _constant(self, numbers: Any) -> ir.Value:
        return self._added(ir.node("Constant", [], {"value": ir.tensor(numbers)}))

    def _node(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._added(ir.node(op_type, list(inputs), attributes))

    def _added(self, node: ir.Node) -> ir.Value:
        self._graph.insert_before(self._before, node)
        return node.outputs[0]
