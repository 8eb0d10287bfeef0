"""Operators that NumPy computes to the last bit as ONNX Runtime does.

They move data, compute on integers, or apply one correctly rounded IEEE operation per element, so
there is one right answer. A model has hundreds of them in its shape arithmetic, and a table entry
costs a thousandth of a session. Everything else is left to ONNX Runtime's own kernels.

A kernel returns None for what it does not cover, and never allocates more than `limit` bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from passes.cleanup.sites import int_setting


@dataclass(frozen=True)
class Call:
    """One node with its inputs at hand.

    Args:
        node: The node.
        inputs: Its inputs; None where one is left out.
        opset: Version of the operator set it is written in.
        limit: The most bytes its output may have.
    """

    node: ir.Node
    inputs: Sequence[Array | None]
    opset: int
    limit: int

    def input(self, index: int) -> Array | None:
        """Return an input that the node may leave out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def integer(self, attribute: str, default: int) -> int:
        """Return an integer attribute (those of functions are never evaluated)."""
        known = int_setting(self.node, attribute, default)
        return default if known is None else known

    def integers(self, attribute: str, index: int | None = None) -> tuple[int, ...] | None:
        """Return integers that an attribute or, in newer opsets, an input holds."""
        if attribute in self.node.attributes:
            return tuple(self.node.attributes[attribute].as_ints())
        known = None if index is None else self.input(index)
        return None if known is None else tuple(int(number) for number in known.reshape(-1))

    def fits(self, shape: Sequence[int], itemsize: int) -> bool:
        """Whether a result of this size may be allocated."""
        return math.prod(shape) * itemsize <= self.limit


Kernel = Callable[[Call], Array | None]


def evaluate(call: Call) -> Array | None:
    """Compute the only output of a node; None where it has no exact kernel here."""
    kernel = _KERNELS.get(call.node.op_type)
    if kernel is None or len(call.node.outputs) != 1 or call.input(0) is None:
        return None
    if not all(array is None or _is_covered(call.node, array.dtype) for array in call.inputs):
        return None
    with np.errstate(all="ignore"):
        return kernel(call)


def _is_covered(node: ir.Node, dtype: np.dtype[Any]) -> bool:
    """Numbers are computed with; types that NumPy only stores (float8, int4) can be moved."""
    if dtype.kind in "OSU":
        return False
    return dtype.kind in "biuf" or dtype == _BFLOAT16 or node.op_type in _MOVING


def _first(call: Call) -> Array:
    array = call.input(0)
    if array is None:
        raise ValueError(f"{call.node.name!r} lacks its first input")
    return array


def _identity(call: Call) -> Array:
    return _first(call)


def _shape(call: Call) -> Array:
    sizes = _first(call).shape
    return np.array(sizes[call.integer("start", 0) : call.integer("end", len(sizes))], np.int64)


def _size(call: Call) -> Array:
    return np.array(_first(call).size, np.int64)


def _reshape(call: Call) -> Array | None:
    array, target = _first(call), call.integers("shape", 1)
    if target is None:
        return None
    if call.integer("allowzero", 0) == 0:
        if any(goal == 0 and axis >= array.ndim for axis, goal in enumerate(target)):
            return None
        target = tuple(array.shape[axis] if goal == 0 else goal for axis, goal in enumerate(target))
    return array.reshape(target) if _is_reachable(array.size, target) else None


def _is_reachable(size: int, target: Sequence[int]) -> bool:
    known = math.prod(goal for goal in target if goal != -1)
    if -1 not in target:
        return known == size
    return target.count(-1) == 1 and known > 0 and size % known == 0


def _flatten(call: Call) -> Array:
    array, axis = _first(call), call.integer("axis", 1)
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def _squeeze(call: Call) -> Array | None:
    array, axes = _first(call), call.integers("axes", 1)
    if axes is None:
        return array.squeeze()
    if any(not -array.ndim <= axis < array.ndim or array.shape[axis] != 1 for axis in axes):
        return None
    return array.squeeze(axis=axes)


def _unsqueeze(call: Call) -> Array | None:
    array, axes = _first(call), call.integers("axes", 1)
    if axes is None:
        return None
    rank = array.ndim + len(axes)
    if any(not -rank <= axis < rank for axis in axes):
        return None
    return np.expand_dims(array, axes)


def _transpose(call: Call) -> Array:
    return _first(call).transpose(call.integers("perm"))


def _concat(call: Call) -> Array | None:
    arrays = [array for array in call.inputs if array is not None]
    if sum(array.nbytes for array in arrays) > call.limit:
        return None
    return np.concatenate(arrays, axis=call.integer("axis", 1))


def _slice(call: Call) -> Array | None:
    array, starts, ends = _first(call), call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or ends is None:
        return None
    axes, steps = call.integers("axes", 3), call.integers("steps", 4)
    cuts = [slice(None)] * array.ndim
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = index if axes is None else axes[index]
        step = 1 if steps is None else steps[index]
        if not -array.ndim <= axis < array.ndim or step == 0:
            return None
        cuts[axis] = _cut(start, end, step, array.shape[axis])
    return array[tuple(cuts)]


def _cut(start: int, end: int, step: int, size: int) -> slice:
    """Clamp as ONNX does: backwards, an end before the first element means all of it."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step)


def _gather(call: Call) -> Array | None:
    array, indices = _first(call), call.input(1)
    axis = call.integer("axis", 0)
    if indices is None or not -array.ndim <= axis < array.ndim:
        return None
    size = array.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        return None
    rest = array.size // size if size else 0
    if not call.fits((indices.size, rest), array.itemsize):
        return None
    return np.asarray(np.take(array, indices, axis=axis))


def _cast(call: Call) -> Array | None:
    """Cast between numbers whose rounding is fixed; floats to integers may overflow, and do not."""
    array = _first(call)
    target = ir.DataType(call.integer("to", 0))
    if target not in _CASTS or array.dtype not in _CAST_SOURCES:
        return None
    dtype = target.numpy()
    if not call.fits(array.shape, dtype.itemsize):
        return None
    if array.dtype.kind == "f" and dtype.kind in "iu":
        return None
    return array.astype(dtype)


_CASTS = frozenset(
    {
        ir.DataType.BOOL,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
        ir.DataType.FLOAT16,
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
    }
)
_CAST_SOURCES = frozenset(target.numpy() for target in _CASTS)


def _broadcast(call: Call, *arrays: Array) -> tuple[int, ...] | None:
    if call.opset < 7 and len({array.shape for array in arrays}) > 1:
        return None
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:  # the model cannot run; that is for the checker to say
        return None
    return shape if call.fits(shape, max(array.itemsize for array in arrays)) else None


def _expand(call: Call) -> Array | None:
    array, target = _first(call), call.integers("shape", 1)
    if target is None or any(size < 0 for size in target):
        return None
    try:
        shape = np.broadcast_shapes(array.shape, target)
    except ValueError:  # the model cannot run; that is for the checker to say
        return None
    return np.broadcast_to(array, shape) if call.fits(shape, array.itemsize) else None


def _constant_of_shape(call: Call) -> Array | None:
    shape = tuple(int(size) for size in _first(call).reshape(-1))
    attribute = call.node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    if any(size < 0 for size in shape) or not call.fits(shape, fill.itemsize):
        return None
    return np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _range(call: Call) -> Array | None:
    bounds = [array for array in call.inputs if array is not None]
    if len(bounds) != 3 or bounds[0].dtype.kind not in "iu":
        return None
    start, limit, delta = (int(bound.reshape(-1)[0]) for bound in bounds)
    if delta == 0:
        return None
    count = max(0, -((start - limit) // delta))
    if not call.fits((count,), bounds[0].itemsize):
        return None
    steps = np.arange(count, dtype=bounds[0].dtype)
    return np.asarray(steps * bounds[0].dtype.type(delta) + bounds[0].reshape(-1)[0])


def _tile(call: Call) -> Array | None:
    array, repeats = _first(call), call.integers("repeats", 1)
    if repeats is None or len(repeats) != array.ndim or min(repeats, default=0) < 0:
        return None
    shape = tuple(size * count for size, count in zip(array.shape, repeats, strict=True))
    return np.tile(array, repeats) if call.fits(shape, array.itemsize) else None


def _where(call: Call) -> Array | None:
    condition, when_true, when_false = _first(call), call.input(1), call.input(2)
    if when_true is None or when_false is None:
        return None
    if _broadcast(call, condition, when_true, when_false) is None:
        return None
    return np.where(condition, when_true, when_false)


def _binary(function: Callable[[Array, Array], Array]) -> Kernel:
    def kernel(call: Call) -> Array | None:
        left, right = _first(call), call.input(1)
        if right is None or len(call.inputs) != 2 or left.dtype != right.dtype:
            return None
        if _broadcast(call, left, right) is None:
            return None
        return np.asarray(function(left, right))

    return kernel


def _unary(function: Callable[[Array], Array]) -> Kernel:
    return lambda call: np.asarray(function(_first(call)))


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind not in "iu":
        return np.asarray(left / right)
    # ONNX divides integers towards zero; a division by zero is left to fail at run time.
    return np.asarray(left - np.fmod(left, right)) // right


def _division(call: Call) -> Array | None:
    right = call.input(1)
    if right is None or (right.dtype.kind in "iu" and not right.all()):
        return None
    return _binary(_divide)(call)


_BFLOAT16 = ir.DataType.BFLOAT16.numpy()

_MOVING = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)

_KERNELS: dict[str, Kernel] = {
    "Identity": _identity,
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "Cast": _cast,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Tile": _tile,
    "Where": _where,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _division,
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "Greater": _binary(np.greater),
    "LessOrEqual": _binary(np.less_equal),
    "GreaterOrEqual": _binary(np.greater_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Not": _unary(np.logical_not),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
}
