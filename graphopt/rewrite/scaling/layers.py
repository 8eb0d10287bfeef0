"""Layers and normalizations: where channels begin, and where they are multiplied and summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant
from graphopt.rewrite.scaling.lanes import Lane, along, channels, lane
from graphopt.rewrite.weights import Use

if TYPE_CHECKING:
    from graphopt.rewrite.scaling.group import Scaling
    from graphopt.rewrite.scaling.rules import Visit


def written(node: ir.Node, scaling: Scaling) -> tuple[Lane, int] | None:
    """Return the channels that a node computes with constants of its own, and their number."""
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _layer(node, scaling)
    if node.op_type in _NORMALIZATIONS:
        return _normalization(node, scaling)
    if node.op_type in ("Mul", "Div"):
        return _product(node)
    return None


def _layer(node: ir.Node, scaling: Scaling) -> tuple[Lane, int] | None:
    index, shape = _weight(node, scaling)
    if index is None or shape is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        count = shape[0] if node.op_type == "Conv" else shape[1] * _groups(node)
        return channels(count, len(shape) - 2), count
    if len(shape) < 2 or (node.op_type == "Gemm" and index != 1):
        return None
    if node.op_type == "Gemm":
        count = shape[0] if node.attributes.get_int("transB", 0) else shape[1]
        return channels(count), count
    return (channels(shape[-1]), shape[-1]) if index == 1 else (channels(shape[-2], 1), shape[-2])


def _weight(node: ir.Node, scaling: Scaling) -> tuple[int | None, tuple[int, ...] | None]:
    """Return which input is a weight, and its shape as the node reads it."""
    for index in (1, 0):
        found = scaling.weights.at(node, index)
        if found is not None:
            return index, scaling.shapes.static_shape(node.inputs[index]) or _stored(found[1])
    return None, None


def _stored(use: Use) -> tuple[int, ...] | None:
    """Shapes inside functions are not inferred; a weight that is read as it is has its own."""
    for value in use.node.inputs:
        tensor = constant(value)
        if tensor is not None and len(tensor.shape) >= 2:
            return tuple(tensor.shape.numpy())
    return None


def _groups(node: ir.Node) -> int:
    return max(1, node.attributes.get_int("group", 1) or 1)


def _normalization(node: ir.Node, scaling: Scaling) -> tuple[Lane, int] | None:
    scale = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None or len(scale.shape) != 1:
        return None
    count, rank = int(scale.size), scaling.shapes.rank(node.outputs[0])
    if _NORMALIZATIONS[node.op_type]:
        axis = node.attributes.get_int("axis", -1)
        if axis != -1 and (rank is None or axis != rank - 1):
            return None
        return channels(count), count
    return None if rank is None or rank < 2 else (channels(count, rank - 2), count)


def _product(node: ir.Node) -> tuple[Lane, int] | None:
    """Return the channels of a Mul or Div with one number per channel."""
    held = [constant(value) for value in node.inputs]
    tensor = held[1] if held[1] is not None or node.op_type == "Div" else held[0]
    if tensor is None or None not in held or not tensor.dtype.is_floating_point():
        return None
    shape = tuple(tensor.shape.numpy())
    long = [axis for axis, size in enumerate(shape) if size > 1]
    if len(long) != 1:
        return None
    count = shape[long[0]]
    return channels(count, len(shape) - 1 - long[0]), count


def _normalized(visit: Visit) -> None:
    """Scale and shift of a normalization write the channels; its statistics mix what it reads."""
    if visit.index is not None:
        is_batch = visit.node.op_type == "BatchNormalization"
        raise visit.refuse("stands in between: cleanup folds it" if is_batch else "normalizes it")
    found = _normalization(visit.node, visit.walk.scaling)
    if found is None:
        raise visit.refuse("has a computed scale")
    numbers, count = found
    from_end = numbers.ndim if count > 1 else 1
    vector = along(visit.lane, from_end, count)
    if vector is None:
        raise visit.refuse("has its channels along another axis")
    for index in (1, 2):
        if visit.input(index) is not None:
            visit.walk.part(visit.node, index, vector, -1)


def _conv(visit: Visit) -> None:
    """Weight of a Conv (out, in / groups, ...) or a ConvTranspose (in, out / groups, ...)."""
    found = visit.walk.scaling.weights.at(visit.node, 1)
    if found is None:
        raise visit.refuse("has no weight that can be edited")
    weight, use = found
    is_transposed = visit.node.op_type == "ConvTranspose"
    shape, rank = tuple(weight.tensor.shape.numpy()), len(use.slot.axes.reduction) + 1
    stored = (use.axes.input, use.axes.output)
    if None in stored or visit.index not in (None, 0):
        raise visit.refuse("reads it as a parameter")
    groups = _groups(visit.node)
    first, second = (stored[0], stored[1]) if is_transposed else (stored[1], stored[0])
    assert first is not None
    assert second is not None
    # The first axis counts all channels of its side, the second those of one group of the other.
    reads_first = (visit.index == 0) == is_transposed
    count = shape[first] if reads_first else shape[second] * groups
    vector = along(visit.lane, rank - 1, count)
    if vector is None:
        raise visit.refuse("has its channels along another axis")
    numbers = (
        _on(vector, shape, first)
        if reads_first
        else (_grouped(vector, shape, (first, second), groups))
    )
    visit.walk.weight(visit.node, 1, numbers, -1 if visit.index is None else 1)
    if visit.index is None:
        _bias(visit, 2, vector)
    else:
        visit.walk.reader(visit.node, 1, visit.value, 1 - rank, lane(vector))


def _grouped(vector: Lane, shape: tuple[int, ...], axes: tuple[int, int], groups: int) -> Lane:
    """Spread channels over a weight whose runs of rows each have channels of their own."""
    rows, inner = shape[axes[0]], shape[axes[1]]
    if groups == 1:
        return _on(vector, shape, axes[1])
    table = np.repeat(vector.reshape(groups, inner), rows // groups, axis=0)
    expanded = table if axes[0] < axes[1] else table.T
    sizes = [1] * len(shape)
    sizes[axes[0]], sizes[axes[1]] = rows, inner
    return np.ascontiguousarray(expanded.reshape(sizes), np.int32)


def _on(vector: Lane, shape: tuple[int, ...], axis: int) -> Lane:
    return vector.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _bias(visit: Visit, index: int, numbers: Lane) -> None:
    if visit.input(index) is not None:
        visit.walk.part(visit.node, index, numbers, -1)


def _gemm(visit: Visit) -> None:
    """A Gemm computes alpha * A B + beta * C, where B is the weight."""
    weight = visit.walk.scaling.weights.at(visit.node, 1)
    if visit.index == 2:
        visit.walk.spread(visit.node.outputs[0], visit.lane)
        return
    if weight is None or visit.index == 1 or weight[1].axes.output is None:
        raise visit.refuse("has no weight that can be edited")
    if visit.index == 0 and visit.node.attributes.get_int("transA", 0) != 0:
        raise visit.refuse("transposes it")
    if visit.index == 0:
        _contract(visit, 1, 1)
        return
    _write(visit, 1, 1)
    bias = visit.input(2)
    if bias is not None and constant(bias) is None:
        visit.walk.spread(bias, visit.lane)
    else:
        _bias(visit, 2, visit.lane)


def _matmul(visit: Visit) -> None:
    """The last axis of the left side and the last but one of the right side are summed over."""
    weights = visit.walk.scaling.weights
    if visit.index is not None:
        summed = 1 if visit.index == 0 else 2
        if not _varies(visit.lane, summed):
            visit.walk.spread(visit.node.outputs[0], visit.lane)
        elif weights.at(visit.node, 1 - visit.index) is None:
            raise visit.refuse("sums over it against no weight")
        else:
            _contract(visit, 1 - visit.index, summed)
        return
    columns = visit.lane.ndim == 0 or _varies(visit.lane, 1)
    side = 1 if columns else 0
    if weights.at(visit.node, side) is not None:
        _write(visit, side, 1 if columns else 2)
    elif _varies(visit.lane, 1) and _varies(visit.lane, 2):
        raise visit.refuse("has channels along two axes")
    else:
        visit.walk.spread(visit.node.inputs[side], visit.lane)


def _varies(numbers: Lane, from_end: int) -> bool:
    return numbers.ndim >= from_end and numbers.shape[-from_end] != 1


def _contract(visit: Visit, index: int, summed: int) -> None:
    """The channels are multiplied with a weight and summed over."""
    found = visit.walk.scaling.weights.at(visit.node, index)
    assert found is not None
    weight, use = found
    shape, axis = tuple(weight.tensor.shape.numpy()), use.axes.input
    vector = None if axis is None else along(visit.lane, summed, shape[axis])
    if vector is None or axis is None:
        raise visit.refuse("has its channels along another axis")
    visit.walk.weight(visit.node, index, _on(vector, shape, axis), 1)
    visit.walk.reader(visit.node, index, visit.value, -summed, lane(vector))


def _write(visit: Visit, index: int, from_end: int) -> None:
    """The channels are the columns (1) or the rows (2) of what a weight makes."""
    found = visit.walk.scaling.weights.at(visit.node, index)
    assert found is not None
    weight, use = found
    shape, axis = tuple(weight.tensor.shape.numpy()), use.axes.output
    vector = None if axis is None else along(visit.lane, from_end, shape[axis])
    if vector is None or axis is None:
        raise visit.refuse("has its channels along another axis")
    visit.walk.weight(visit.node, index, _on(vector, shape, axis), -1)


_NORMALIZATIONS: Mapping[str, bool] = {
    "LayerNormalization": True,
    "RMSNormalization": True,
    "SimplifiedLayerNormalization": True,
    "BatchNormalization": False,
    "InstanceNormalization": False,
    "GroupNormalization": False,
}
"""Whether the channels of a normalization are the last axis; else they are axis 1."""

RULES: Mapping[tuple[str, str], Callable[[Visit], None]] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    **{("", op): _normalized for op in _NORMALIZATIONS},
}
