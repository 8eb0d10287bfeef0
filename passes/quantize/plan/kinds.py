"""What a node is among nodes of its operator: those alike tend to gain alike."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import constant, is_op, nbytes
from graphopt.rewrite.layers import Role, slot

_PASSING = ("Identity", "Transpose", "Cast", "Reshape", "DequantizeLinear", "Unsqueeze")
_LONGEST = 4


def kind(node: ir.Node) -> str:
    """Return the operator of a node, with what decides which kernel computes it."""
    if is_op(node, "Conv", "ConvTranspose"):
        return f"{_convolution(node)}{node.op_type}"
    if is_op(node, "MatMul") and not weight_bytes(node):
        return "MatMul of activations"
    return node.op_type


def weight_bytes(node: ir.Node) -> int:
    """Bytes of the weights that a node multiplies with, or picks rows of."""
    return sum(_weight_bytes(node, index) for index in range(len(node.inputs)))


def _weight_bytes(node: ir.Node, index: int) -> int:
    tensor = _held(node.inputs[index])
    if tensor is None:
        return 0
    found = slot(node, index, len(tensor.shape))
    weighs = found is not None and found.role in (Role.WEIGHT, Role.EMBEDDING)
    return nbytes(tensor) if weighs else 0


def _held(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant behind a value, also behind a Transpose, Cast or the like."""
    for _ in range(_LONGEST):
        tensor = constant(value)
        producer = None if value is None else value.producer()
        if tensor is not None or producer is None or not is_op(producer, *_PASSING):
            return tensor
        value = producer.inputs[0]
    return None


def _convolution(node: ir.Node) -> str:
    weight = constant(node.inputs[1] if len(node.inputs) > 1 else None)
    shape = () if weight is None else tuple(weight.shape)
    groups = node.attributes.get_int("group", 1) or 1
    if groups > 1:
        return "depthwise " if len(shape) > 1 and shape[1] == 1 else "grouped "
    if len(shape) > 2:
        return "x".join(str(size) for size in shape[2:]) + " "
    return ""
