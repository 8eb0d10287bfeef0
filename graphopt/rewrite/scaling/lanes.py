"""Which channel each element of a tensor belongs to, and how that moves through axes.

A lane is an array of channel numbers that broadcasts to the tensor as ONNX broadcasts, from the
last axis; -1 stands for elements that belong to no channel. Axes along which nothing changes have
the size 1, and leading ones are left out, so that the rank of the tensor need not be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.rewrite.dims import Dims

Lane = npt.NDArray[np.int32]

_MOST = 1 << 22
"""Elements of a lane that is spread over several axes."""


def channels(count: int, behind: int = 0) -> Lane:
    """Return the lane of a tensor whose channels lie along one axis.

    Args:
        count: How many there are.
        behind: How many axes follow.
    """
    return lane(np.arange(count, dtype=np.int32).reshape(count, *[1] * behind))


def lane(numbers: npt.NDArray[Any]) -> Lane:
    """Bring channel numbers into the form that can be compared."""
    for axis, size in enumerate(numbers.shape):
        first = numbers.take([0], axis=axis) if size else numbers
        if size > 1 and (numbers == first).all():
            numbers = first
    while numbers.ndim and numbers.shape[0] == 1:
        numbers = numbers[0]
    return np.ascontiguousarray(numbers, np.int32)


def full(of: Lane, rank: int) -> Lane | None:
    """Return a lane with all axes of its tensor; None where it has more."""
    if of.ndim > rank:
        return None
    return of.reshape((1,) * (rank - of.ndim) + of.shape)


def along(of: Lane, from_end: int, size: int) -> Lane | None:
    """Return the channels along one axis, where they change along no other.

    Args:
        of: A lane.
        from_end: The axis, counted from the end: 1 is the last one.
        size: The size of the tensor there.
    """
    others = [n for axis, n in enumerate(of.shape) if of.ndim - axis != from_end]
    if any(n != 1 for n in others):
        return None
    numbers = of.reshape(-1)
    if numbers.size not in (1, size):
        return None
    return np.broadcast_to(numbers, (size,))


def varies(of: Lane, from_end: int) -> bool:
    """Whether the channel changes along an axis, counted from the end: 1 is the last one."""
    return of.ndim >= from_end and of.shape[of.ndim - from_end] != 1


def transposed(of: Lane, order: Sequence[int]) -> Lane | None:
    """Return the lane behind a Transpose."""
    expanded = full(of, len(order))
    return None if expanded is None else lane(expanded.transpose(order))


def regrouped(of: Lane, before: Dims, after: Dims) -> Lane | None:
    """Return the lane behind a Reshape.

    Axes are matched in runs from the last one: of two runs of the same size one becomes the other.

    Returns:
        None where sizes that matter are not known.
    """
    expanded = full(of, len(before))
    if expanded is None:
        return None
    spread, goal = list(expanded.shape), list[int]()
    i, j = len(before), len(after)
    while any(size != 1 for size in expanded.shape[:i]):
        start, target = last_runs(before[:i], after[:j])
        if start is None or target is None:
            return None
        own, new = before[start:i], after[target:j]
        if all(size == 1 for size in expanded.shape[start:i]):
            new = (1,) * len(new)
        else:
            spread[start:i] = sizes = _known(own)
            if math.prod(sizes) != math.prod(_known(new)) or math.prod(sizes) > _MOST:
                return None
        goal = [*_known(new), *goal]
        i, j = start, target
    try:
        return lane(np.broadcast_to(expanded, spread).reshape(goal))
    except ValueError:  # the lane is not one of such a tensor
        return None


def _known(dims: Dims) -> list[int]:
    return [size if isinstance(size, int) else 0 for size in dims]


def last_runs(before: Dims, after: Dims) -> tuple[int, int] | tuple[None, None]:
    """Return where the last runs of equal size start."""
    i, j = len(before) - 1, len(after) - 1
    if i < 0 or j < 0:
        return None, None
    left, right = before[i], after[j]
    if left is not None and left == right:
        return i, j
    while left != right:
        if not isinstance(left, int) or not isinstance(right, int):
            return None, None
        shorter = before if left < right else after
        i, j = (i - 1, j) if left < right else (i, j - 1)
        at = i if left < right else j
        size = shorter[at] if at >= 0 else None
        if not isinstance(size, int):
            return None, None
        left, right = (left * size, right) if left < right else (left, right * size)
    return i, j
