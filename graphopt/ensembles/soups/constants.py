"""Constants of two models side by side: which may differ, and whether they do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import is_op

_PIECE = 1 << 20
"""Elements that are compared at a time."""

_SMALLEST_WEIGHT_BITS = 16
"""Floats below are quantized: what they stand for depends on a scale."""

_SETTINGS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Dropout": (1, 2),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1, 2),
    "Pad": (2,),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Inputs by operator that say what it does. The mixture of two of them is neither."""

_INTEGER_WEIGHTS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}


def is_mixable(tensor: ir.TensorProtocol) -> bool:
    """Whether the numbers of a tensor are real numbers that can be averaged as they stand."""
    return tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= _SMALLEST_WEIGHT_BITS


def is_setting(reader: ir.Node | ir.Graph, index: int) -> bool:
    """Whether an input of a node says what the node does, as the bounds of Clip do."""
    if not isinstance(reader, ir.Node):
        return False
    return is_op(reader, reader.op_type) and index in _SETTINGS.get(reader.op_type, ())


def reads_quantized(reader: ir.Node | ir.Graph) -> bool:
    """Whether a node reads integers that stand for real numbers."""
    return isinstance(reader, ir.Node) and reader.op_type in _INTEGER_WEIGHTS


def same_contents(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Whether two tensors of one type and shape hold the same elements; NaN equals NaN."""
    if first is second:
        return True
    if first.dtype == ir.DataType.STRING:
        return bool(np.array_equal(first.numpy(), second.numpy()))
    left, right = first.numpy().reshape(-1), second.numpy().reshape(-1)
    for start in range(0, left.size, _PIECE):
        a, b = left[start : start + _PIECE], right[start : start + _PIECE]
        if not ((a == b) | ((a != a) & (b != b))).all():  # noqa: PLR0124 - true of NaN only, of every dtype
            return False
    return True


def shown(tensor: ir.TensorProtocol) -> str:
    """Say what is in a tensor, for a message: its elements where they are few."""
    if tensor.size > 8:
        return f"{tensor.dtype.name}{list(tensor.shape.numpy())}"
    elements: object = np.asarray(tensor.numpy()).tolist()
    return str(elements)
