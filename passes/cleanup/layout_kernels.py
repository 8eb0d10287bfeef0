"""Operators that move, cut or repeat data of any type, with NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.rewrite.constants import Array
from passes.cleanup.kernel_call import Call, Kernel, first


def _identity(call: Call) -> Array:
    return first(call)


def _shape(call: Call) -> Array:
    sizes = first(call).shape
    return np.array(sizes[call.integer("start", 0) : call.integer("end", len(sizes))], np.int64)


def _size(call: Call) -> Array:
    return np.array(first(call).size, np.int64)


def _reshape(call: Call) -> Array | None:
    array, target = first(call), call.integers("shape", 1)
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
    array, axis = first(call), call.integer("axis", 1)
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def _squeeze(call: Call) -> Array | None:
    array, axes = first(call), call.integers("axes", 1)
    if axes is None:
        return array.squeeze()
    if any(not -array.ndim <= axis < array.ndim or array.shape[axis] != 1 for axis in axes):
        return None
    return array.squeeze(axis=axes)


def _unsqueeze(call: Call) -> Array | None:
    array, axes = first(call), call.integers("axes", 1)
    if axes is None:
        return None
    rank = array.ndim + len(axes)
    if any(not -rank <= axis < rank for axis in axes):
        return None
    return np.expand_dims(array, axes)


def _transpose(call: Call) -> Array:
    return first(call).transpose(call.integers("perm"))


def _concat(call: Call) -> Array | None:
    arrays = [array for array in call.inputs if array is not None]
    if sum(array.nbytes for array in arrays) > call.limit:
        return None
    return np.concatenate(arrays, axis=call.integer("axis", 1))


def _slice(call: Call) -> Array | None:
    array, starts, ends = first(call), call.integers("starts", 1), call.integers("ends", 2)
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
    array, indices = first(call), call.input(1)
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


def _expand(call: Call) -> Array | None:
    array, target = first(call), call.integers("shape", 1)
    if target is None or any(size < 0 for size in target):
        return None
    try:
        shape = np.broadcast_shapes(array.shape, target)
    except ValueError:  # the model cannot run; that is for the checker to say
        return None
    return np.broadcast_to(array, shape) if call.fits(shape, array.itemsize) else None


def _tile(call: Call) -> Array | None:
    array, repeats = first(call), call.integers("repeats", 1)
    if repeats is None or len(repeats) != array.ndim or min(repeats, default=0) < 0:
        return None
    shape = tuple(size * count for size, count in zip(array.shape, repeats, strict=True))
    return np.tile(array, repeats) if call.fits(shape, array.itemsize) else None


KERNELS: dict[str, Kernel] = {
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
    "Expand": _expand,
    "Tile": _tile,
}
"""By operator of ONNX's own domain."""
