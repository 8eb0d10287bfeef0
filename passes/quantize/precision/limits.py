"""What would be lost in a narrower float type: overflow, underflow, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, constant, is_op
from passes.quantize.precision.float_arrays import largest
from passes.quantize.precision.positions import MOVES

_HEADROOM = 2.0
"""Data that were not seen may be larger than those that were."""

_LOST = 0.01
"""The share of the largest weight that underflow may take from any."""

_DEPTH = 16

_SMALL = 1 << 16
"""Constants of so many elements are looked at for numbers that others carry on."""

_TO_SCORES = MOVES | {"Add", "Sub", "Mul", "Where", "Cast", "Min", "Max", "Trilu", "Range"}
"""What lies between a mask and the Softmax that it is for."""

_ATTENTION = frozenset(
    {"Softmax", "LogSoftmax", "Attention", "MultiHeadAttention", "GroupQueryAttention"}
)
"""Where scores are turned into weights that sum to 1."""

_DIVISORS = {"Div": (1,), "Pow": (0, 1), "Log": (0,), "Sqrt": (0,), "Reciprocal": (0,)}
"""Operators for which a number that becomes zero is another number, however small it was."""

_GROWING = frozenset(
    {
        *("Exp", "Pow", "CumSum", "ReduceSum", "ReduceSumSquare", "ReduceProd"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
    }
)
"""Operators whose outputs are often out of proportion to their inputs."""

_CARRYING = frozenset(
    {
        *("Add", "Sub", "Mul", "Max", "Min", "Cast", "ReduceMean", "ReduceSum", "ReduceMax"),
        *("Relu", "LeakyRelu", "PRelu", "Neg", "Abs", "Where", "MaxPool", "AveragePool"),
        *("GlobalAveragePool", "GlobalMaxPool"),
        *MOVES,
    }
)
"""Operators whose outputs are as large as their inputs, or larger."""


def constant_problem(node: ir.Node, index: int, dtype: ir.DataType, *, clamps: bool) -> str | None:
    """Say what a constant that a node reads would lose.

    Args:
        node: The node.
        index: The input.
        dtype: The type to store it in.
        clamps: Whether numbers out of range are cut off.
    """
    value = node.inputs[index]
    tensor = constant(value)
    if tensor is None or value is None or not tensor.size:
        return None
    return tensor_problem(node, index, tensor, dtype, clamps=clamps)


def tensor_problem(
    node: ir.Node, index: int, tensor: ir.TensorProtocol, dtype: ir.DataType, *, clamps: bool
) -> str | None:
    """As `constant_problem`, for a tensor."""
    real = tensor.numpy()
    magnitude = np.abs(real.astype(np.float32, copy=False))
    finite = magnitude[np.isfinite(magnitude)]
    if not finite.size:
        return None
    top = float(finite.max())
    if top > largest(dtype) and not clamps:
        return f"its constant {tensor.name!r} reaches {top:.3g}, beyond {dtype.name.lower()}"
    return _underflow(node, index, tensor.name, finite, dtype)


def _underflow(
    node: ir.Node, index: int, name: str | None, magnitude: Array, dtype: ir.DataType
) -> str | None:
    with np.errstate(over="ignore"):
        stored = magnitude.astype(dtype.numpy()).astype(np.float32)
    gone = int(np.count_nonzero((stored == 0) & (magnitude > 0)))
    if gone and index in _DIVISORS.get(node.op_type, ()):
        return f"{gone} numbers of its constant {name!r} would become 0"
    held = np.isfinite(stored)
    error = float(np.abs(stored[held] - magnitude[held]).max(initial=0.0))
    top = float(magnitude.max())
    if error > _LOST * top:
        return f"its constant {name!r} is too small: {gone} of its numbers would become 0"
    return None


def clamp_for(node: ir.Node, dtype: ir.DataType) -> float | None:
    """Return what constants of a node may be cut off at: those of masks of attention scores.

    Half of the largest number, so that a score can be added to a mask, and a mask to a mask.
    """
    return largest(dtype) / 2 if _masks(node) else None


def _masks(node: ir.Node) -> bool:
    """Whether all that a node writes ends in a Softmax, added to what stands there."""
    pending, depth, met = [(node, 0)], 0, False
    seen: set[ir.Node] = set()
    while pending:
        current, depth = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op_type in _ATTENTION:
            met = True
            continue
        known = current.op_type in _TO_SCORES or current.op_type in ("ConstantOfShape", "Expand")
        if depth > _DEPTH or not known:
            return False
        for output in current.outputs:
            if output.is_graph_output():
                return False
            pending.extend((user, depth + 1) for user, _ in output.uses())
    return met


def activation_problem(
    node: ir.Node, ranges: Mapping[ir.Value, tuple[float, float]], dtype: ir.DataType
) -> str | None:
    """Say which value of a node leaves the range of a type on the data."""
    limit = largest(dtype) / _HEADROOM
    for value in (*node.inputs, *node.outputs):
        if value is None or value not in ranges:
            continue
        top = max(map(abs, ranges[value]))
        if top > limit:
            return f"{value.name!r} reaches {top:.3g} on the data, and {limit:.6g} is safe"
    return None


def growing(
    nodes: list[ir.Node], dtype: ir.DataType, has_ranges: Callable[[ir.Node], bool]
) -> dict[ir.Node, str]:
    """Return nodes that may leave the range, where no data show that they do not.

    Those are sums, powers and exponentials, what reads numbers beyond the range, what carries such
    results on, and what brings them back into range.
    """
    found: dict[ir.Node, str] = {}
    for node in nodes:
        if has_ranges(node):
            continue
        if is_op(node, "Cast") and _accumulates(node.inputs[0]):
            why = "sums of integers may leave the range, and there are no data"
            found.update(dict.fromkeys([node, *(user for user, _ in node.outputs[0].uses())], why))
        elif is_op(node, *_GROWING):
            _spread(node, f"{node.op_type} may leave the range, and there are no data", found)
        elif _reads_beyond(node, dtype):
            _spread(node, "it may carry numbers beyond the range, and there are no data", found)
    return found


def _spread(node: ir.Node, why: str, found: dict[ir.Node, str]) -> None:
    pending = [(node, 0)]
    while pending:
        current, depth = pending.pop()
        if current in found and current is not node:
            continue
        found[current] = why
        if depth >= _DEPTH or (depth and current.op_type not in _CARRYING):
            continue
        # Whoever reads it would read infinity in the narrow type.
        for output in current.outputs:
            pending.extend((user, depth + 1) for user, _ in output.uses())


def _accumulates(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and is_op(producer, "MatMulInteger", "ConvInteger")


def _reads_beyond(node: ir.Node, dtype: ir.DataType) -> bool:
    if clamp_for(node, dtype) is not None:
        return False
    for value in node.inputs:
        tensor = constant(value)
        if tensor is None or tensor.size > _SMALL or tensor.dtype != ir.DataType.FLOAT:
            continue
        magnitude = np.abs(tensor.numpy())
        if (magnitude[np.isfinite(magnitude)] > largest(dtype)).any():
            return True
    return False
