"""What a node is among nodes of its operator: those alike tend to gain alike."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import constant, is_op, nbytes


def kind(node: ir.Node) -> str:
    """Return the operator of a node, with what decides which kernel computes it."""
    if is_op(node, "Conv", "ConvTranspose"):
        return f"{_convolution(node)}{node.op_type}"
    if is_op(node, "MatMul") and not weight_bytes(node):
        return "MatMul of activations"
    return node.op_type


def weight_bytes(node: ir.Node) -> int:
    """Bytes of the constants that a node reads, also behind a Transpose, Cast or the like."""
    return sum(_bytes(value) for value in node.inputs)


def _bytes(value: ir.Value | None, depth: int = 4) -> int:
    tensor = constant(value)
    if tensor is not None:
        return nbytes(tensor)
    producer = None if value is None else value.producer()
    if producer is None or not depth:
        return 0
    if is_op(producer, "Identity", "Transpose", "Cast", "Reshape", "DequantizeLinear", "Unsqueeze"):
        return _bytes(producer.inputs[0], depth - 1)
    return 0


def _convolution(node: ir.Node) -> str:
    weight = constant(node.inputs[1] if len(node.inputs) > 1 else None)
    shape = () if weight is None else tuple(weight.shape)
    groups = node.attributes.get_int("group", 1) or 1
    if groups > 1:
        return "depthwise " if len(shape) > 1 and shape[1] == 1 else "grouped "
    if len(shape) > 2:
        return "x".join(str(size) for size in shape[2:]) + " "
    return ""
