"""Shape arithmetic on numbers: what takes them apart and puts them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from graphopt.training.call import Call
from graphopt.training.numbers import MAX_NUMBERS, Numbers, Objects, integers_of, number
from graphopt.training.operators.joining import split_sizes
from graphopt.training.operators.registry import on_numbers
from graphopt.training.operators.shapes import (
    axis_of,
    broadcast,
    filled,
    reshaped,
    rows_of,
    shape_of,
)
from graphopt.training.operators.slicing import ended

_COUNTED = (torch.int64, torch.int32, torch.bool)

Found = Any
"""`Numbers`, or NotImplemented."""


@on_numbers("Identity")
def identity(_: Call, value: Numbers) -> Found:
    """Return the input."""
    return value


@on_numbers("Shape")
def shape(call: Call, value: Numbers) -> Found:
    """Return the sizes."""
    return shape_of(call, value.array.shape)


@on_numbers("Size")
def size(_: Call, value: Numbers) -> Found:
    """Return how many they are."""
    return number(value.array.size)


@on_numbers("Gather")
def gather(call: Call, data: Numbers, indices: Numbers) -> Found:
    """Return the numbers at some places."""
    places = _known_integers(indices)
    if places is None:
        return NotImplemented
    at = np.array(places, dtype=np.int64).reshape(indices.array.shape)
    return _like(
        data, np.take(data.array, at, axis=axis_of(call.integer("axis", 0), data.array.ndim))
    )


@on_numbers("Slice")
def slice_(
    _: Call,
    data: Numbers,
    starts: Numbers,
    ends: Numbers,
    axes: Numbers | None = None,
    steps: Numbers | None = None,
) -> Found:
    """Return some of them that follow each other."""
    given = [_known_integers(starts), _known_integers(ends)]
    count = starts.array.size
    given.append(list(range(count)) if axes is None else _known_integers(axes))
    given.append([1] * count if steps is None else _known_integers(steps))
    known = [each for each in given if each is not None]
    if len(known) < len(given):
        return NotImplemented
    taken = [slice(None)] * data.array.ndim
    for start, end, each, step in zip(*known, strict=True):
        axis = axis_of(each, data.array.ndim)
        length = data.array.shape[axis]
        # ONNX clamps to the first one a start, and to none an end, that Python takes otherwise.
        taken[axis] = slice(
            start if step > 0 else max(start, -length),
            None if step < 0 and ended(end, step) < -length else end,
            step,
        )
    return _like(data, data.array[tuple(taken)])


@on_numbers("Concat")
def concat(call: Call, *values: Numbers) -> Found:
    """Join them."""
    axis = axis_of(call.integer("axis"), values[0].array.ndim)
    return _like(values[0], np.concatenate([each.array for each in values], axis))


@on_numbers("Split")
def split(call: Call, data: Numbers, sizes: Numbers | None = None) -> Found:
    """Take them apart."""
    axis = axis_of(call.integer("axis", 0), data.array.ndim)
    listed = None if sizes is None else _known_integers(sizes)
    if sizes is not None and listed is None:
        return NotImplemented
    ends = np.cumsum(split_sizes(call, data.array.shape[axis], listed))
    return tuple(_like(data, part) for part in np.split(data.array, ends[:-1], axis))


@on_numbers("Squeeze")
def squeeze(_: Call, data: Numbers, axes: Numbers | None = None) -> Found:
    """Take away axes of size 1."""
    dropped = None if axes is None else _known_integers(axes)
    if axes is not None and dropped is None:
        return NotImplemented
    places = tuple(axis_of(axis, data.array.ndim) for axis in dropped or ())
    return _like(data, data.array.squeeze(places or None))


@on_numbers("Unsqueeze")
def unsqueeze(_: Call, data: Numbers, axes: Numbers) -> Found:
    """Put in axes of size 1."""
    added = _known_integers(axes)
    if added is None:
        return NotImplemented
    rank = data.array.ndim + len(added)
    places = tuple(axis_of(axis, rank) for axis in added)
    return _like(data, np.expand_dims(data.array, places))


@on_numbers("Reshape")
def reshape(call: Call, data: Numbers, target: Numbers) -> Found:
    """Give them another shape."""
    asked = _known_integers(target)
    if asked is None:
        return NotImplemented
    return _like(data, data.array.reshape(reshaped(call, data.array.shape, asked)))


@on_numbers("Flatten")
def flatten(call: Call, data: Numbers) -> Found:
    """Make a matrix of them."""
    at = rows_of(call, data.array.ndim)
    rows = int(np.prod(data.array.shape[:at], dtype=np.int64))
    return _like(data, data.array.reshape(rows, data.array.size // max(rows, 1)))


@on_numbers("Transpose")
def transpose(call: Call, data: Numbers) -> Found:
    """Put the axes in another order."""
    return _like(data, data.array.transpose(call.integers("perm", range(data.array.ndim)[::-1])))


@on_numbers("Expand")
def expand(_: Call, data: Numbers, target: Numbers) -> Found:
    """Repeat them along axes of size 1."""
    return _limited(
        data, target, lambda sizes: np.broadcast_to(data.array, broadcast(data.array.shape, sizes))
    )


@on_numbers("Tile")
def tile(_: Call, data: Numbers, repeats: Numbers) -> Found:
    """Repeat them."""
    return _limited(data, repeats, lambda counts: np.tile(data.array, counts))


def _limited(data: Numbers, sizes: Numbers, made: Callable[[list[int]], Objects]) -> Found:
    """Make more of some numbers, as long as they are few."""
    known = _known_integers(sizes)
    if known is None or data.array.size * int(np.prod(known, dtype=object)) > MAX_NUMBERS:
        return NotImplemented
    return _like(data, made(known))


@on_numbers("ScatterElements", "ScatterND")
def scatter(call: Call, data: Numbers, indices: Numbers, updates: Numbers) -> Found:
    """Replace some numbers of a list."""
    places = _known_integers(indices)
    is_list = data.array.ndim == 1 and updates.array.size == indices.array.size
    if places is None or not is_list or call.text("reduction", "none") != "none":
        return NotImplemented
    array = data.array.copy()
    for place, update in zip(places, updates.array.reshape(-1).tolist(), strict=True):
        array[place] = update
    return Numbers(array, data.dtype)


@on_numbers("ConstantOfShape")
def constant_of_shape(call: Call, target: Numbers) -> Found:
    """Make a list of one number, which is a shape or what one is compared with."""
    sizes = _known_integers(target)
    fill, dtype = filled(call)
    if sizes is None or len(sizes) > 1 or dtype not in _COUNTED:
        return NotImplemented
    if sizes and sizes[0] > MAX_NUMBERS:
        return NotImplemented
    array = np.empty(sizes, dtype=object)
    array[...] = bool(fill) if dtype == torch.bool else fill
    return Numbers(array, dtype)


@on_numbers("Range")
def arange(_: Call, start: Numbers, limit: Numbers, delta: Numbers) -> Found:
    """Count, as long as there is little to count."""
    bounds = [_known_integers(each) for each in (start, limit, delta)]
    known = [each[0] for each in bounds if each is not None]
    if len(known) < len(bounds) or start.dtype not in _COUNTED:
        return NotImplemented
    first, last, step = known
    if step == 0 or abs(last - first) > MAX_NUMBERS * abs(step):
        return NotImplemented
    counted = range(first, last, step)
    array = np.empty(len(counted), dtype=object)
    array[:] = counted
    return Numbers(array, start.dtype)


def _like(data: Numbers, array: Any) -> Numbers:
    """Make numbers of the same type."""
    made = np.empty(np.shape(array), dtype=object)
    made[...] = array
    return Numbers(made, data.dtype)


def _known_integers(values: Numbers) -> list[int] | None:
    """Return integers of Python; None: some are symbols."""
    listed = integers_of(values)
    return listed if all(isinstance(each, int) for each in listed) else None
