"""Targets of Reshape, and how to write one that is known only in part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from graphopt.rewrite.dims import Dim, Dims


def reshaped_dims(shape: Dims, target: Dims) -> Dims | None:
    """Return the shape that Reshape gives (`allowzero` off); None where it cannot be told.

    Args:
        shape: Of the input; 0 in the target copies from here.
        target: With at most one -1, which takes what is left: it is found if other sizes cancel.
    """
    copied: list[Dim] = []
    for axis, goal in enumerate(target):
        if goal == 0:
            if axis >= len(shape):
                return None
            copied.append(shape[axis])
        else:
            copied.append(goal)
    if -1 not in copied:
        return tuple(copied)
    rest = copied.copy()
    rest.remove(-1)
    missing = _quotient(shape, rest)
    return None if missing is None else tuple(missing if dim == -1 else dim for dim in copied)


def _quotient(whole: Sequence[Dim], parts: Sequence[Dim]) -> Dim:
    """Divide the product of sizes by that of others; None where it is no number and no symbol."""
    if None in whole or None in parts:
        return None
    symbols = Counter(dim for dim in whole if isinstance(dim, str))
    symbols.subtract(dim for dim in parts if isinstance(dim, str))
    numerator = math.prod(dim for dim in whole if isinstance(dim, int))
    denominator = math.prod(dim for dim in parts if isinstance(dim, int))
    if denominator == 0 or numerator % denominator or min(symbols.values(), default=0) < 0:
        return None
    left = list(symbols.elements())
    number = numerator // denominator
    if not left:
        return number
    return left[0] if len(left) == 1 and number == 1 else None


def constant_target(shape: Dims | None, target: Dims) -> tuple[int, ...] | None:
    """Write a target that is known in symbols as numbers; None where that needs more than is known.

    A size that the input has at the same axis is copied (0). One unknown size is left over (-1),
    but only where all others are positive numbers: next to a size that may be 0, ONNX cannot tell
    what is left.

    Args:
        shape: Of the input of Reshape.
        target: Elements of its second input, `allowzero` off.
    """
    written: list[int | None] = []
    for axis, goal in enumerate(target):
        known = shape is not None and axis < len(shape) and shape[axis] is not None
        if isinstance(goal, int):
            written.append(goal)
        elif known and shape is not None and shape[axis] == goal:
            written.append(0)
        else:
            written.append(None)
    unknown = written.count(None)
    if unknown == 0:
        return tuple(size for size in written if size is not None)
    if unknown > 1 or any(size is not None and size <= 0 for size in written):
        return None
    return tuple(-1 if size is None else size for size in written)
