"""How channels move through operators that move, cut, join or reduce axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant, integers
from graphopt.rewrite.scaling.lanes import Lane, full, lane, regrouped, transposed, varies
from graphopt.rewrite.scaling.visit import Visit, rank_of, same


def transpose(visit: Visit) -> None:
    """Move channels to another axis."""
    known = visit.node.attributes.get("perm")
    if known is None or known.is_ref():
        rank = visit.walk.shapes.rank(visit.node.inputs[0])
        if rank is None or known is not None:
            raise visit.refuse("has an input of unknown rank")
        order = list(reversed(range(rank)))
    else:
        order = list(known.as_ints())
    if visit.index is None:
        found = transposed(visit.lane, np.argsort(order).tolist())
        other = visit.node.inputs[0]
    else:
        found, other = transposed(visit.lane, order), visit.node.outputs[0]
    if found is None:
        raise visit.refuse("has an input of another rank")
    visit.walk.spread(other, found)


def reshape(visit: Visit) -> None:
    """Split or join the axes of channels."""
    if visit.index not in (None, 0):
        raise visit.refuse("reads it as a shape")
    shapes = visit.walk.shapes
    ends = visit.node.inputs[0], visit.node.outputs[0]
    before, after = shapes.shape(ends[0]), shapes.shape(ends[1])
    if before is None or after is None:
        raise visit.refuse("has an unknown shape")
    if visit.index is None:
        found, other = regrouped(visit.lane, after, before), ends[0]
    else:
        found, other = regrouped(visit.lane, before, after), ends[1]
    if found is None:
        raise visit.refuse("has sizes that are not known")
    visit.walk.spread(other, found)


def reduced(visit: Visit) -> None:
    """Let channels pass where other axes are reduced."""
    rank = visit.walk.shapes.rank(visit.node.inputs[0])
    known = visit.node.attributes.get("axes")
    if known is not None and not known.is_ref():
        axes: tuple[int, ...] | None = tuple(known.as_ints())
    elif visit.input(1) is not None:
        axes = integers(visit.input(1))
    elif visit.node.attributes.get_int("noop_with_empty_axes", 0):
        axes = ()
    else:
        axes = None if rank is None else tuple(range(rank))
    if rank is None or axes is None or visit.index not in (None, 0):
        raise visit.refuse("reduces unknown axes")
    gone = {axis % rank for axis in axes}
    kept = bool(visit.node.attributes.get_int("keepdims", 1))
    if visit.index is None and not kept:
        inner = full(visit.lane, rank - len(gone))
        if inner is None:
            raise visit.refuse("reduces unknown axes")
        visit.walk.spread(visit.node.inputs[0], lane(np.expand_dims(inner, tuple(gone))))
        return
    if any(varies(visit.lane, rank - axis) for axis in gone):
        raise visit.refuse("mixes channels")
    expanded = full(visit.lane, rank)
    if expanded is None:
        raise visit.refuse("reduces unknown axes")
    other = expanded if kept else np.squeeze(expanded, axis=tuple(gone))
    outer = visit.node.inputs[0] if visit.index is None else visit.node.outputs[0]
    visit.walk.spread(outer, lane(other))


def split(visit: Visit) -> None:
    """Give each piece its own channels."""
    axis, sizes = _cut(visit, visit.node.outputs)
    if axis is None or not varies(visit.lane, axis):
        _split_elsewhere(visit)
        return
    starts = np.cumsum([0, *sizes])
    if visit.index is None:
        place = list(visit.node.outputs).index(visit.value)
        visit.walk.spread(visit.node.inputs[0], within(visit.lane, axis, starts[place], starts[-1]))
        return
    at = visit.lane.ndim - axis
    for output, start, size in zip(visit.node.outputs, starts, sizes, strict=False):
        visit.walk.spread(output, visit.lane.take(range(start, start + size), axis=at))


def _split_elsewhere(visit: Visit) -> None:
    """Channels lie along another axis than the one that is cut."""
    visit.walk.spread(visit.node.inputs[0], visit.lane)
    for output in visit.node.outputs:
        visit.walk.spread(output, visit.lane)


def concat(visit: Visit) -> None:
    """Join channels; those of other operands belong to none."""
    axis, sizes = _cut(visit, visit.node.inputs)
    if axis is None:
        raise visit.refuse("has sizes that are not known")
    starts = np.cumsum([0, *sizes])
    if visit.index is not None and varies(visit.lane, axis):
        value = visit.value
        for place, (other, start) in enumerate(zip(visit.node.inputs, starts, strict=False)):
            if other is value and place == visit.index:
                visit.walk.spread(
                    visit.node.outputs[0], within(visit.lane, axis, start, starts[-1])
                )
        return
    at = visit.lane.ndim - axis
    for other, start, size in zip(visit.node.inputs, starts, sizes, strict=False):
        numbers = visit.lane
        if varies(visit.lane, axis):
            numbers = visit.lane.take(range(start, start + size), axis=at)
        if constant(other) is not None and (numbers >= 0).any():
            raise visit.refuse("joins a constant")
        visit.walk.spread(other, numbers)
    if visit.index is not None:
        visit.walk.spread(visit.node.outputs[0], visit.lane)


def _cut(visit: Visit, pieces: Sequence[ir.Value | None]) -> tuple[int | None, list[int]]:
    """Return the axis that is cut or joined, from the end, and the sizes of the pieces."""
    shapes = visit.walk.shapes
    axis = visit.node.attributes.get_int("axis", 0)
    known = [shapes.shape(piece) for piece in pieces]
    rank = next((len(shape) for shape in known if shape is not None), None)
    if axis is None or rank is None:
        raise visit.refuse("has an input of unknown rank")
    from_end = rank - axis % rank
    sizes = [None if shape is None else shape[len(shape) - from_end] for shape in known]
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) != len(sizes):
        if varies(visit.lane, from_end):
            raise visit.refuse("has sizes that are not known")
        return (from_end, []) if visit.node.op_type == "Split" else (from_end, [0] * len(sizes))
    return from_end, numbers


def within(part: Lane, axis: int, start: int, size: int) -> Lane:
    """Place the channels of a piece in the whole; the rest belongs to none."""
    at = part.ndim - axis
    shape = list(part.shape)
    shape[at] = int(size)
    whole = np.full(shape, -1, np.int32)
    whole[(*[slice(None)] * at, slice(int(start), int(start) + part.shape[at]))] = part
    return whole


def cut_out(visit: Visit) -> None:
    """Let channels pass where other axes are cut."""
    if visit.index not in (None, 0):
        raise visit.refuse("reads it as a parameter")
    known = visit.node.attributes.get("axes")
    starts = visit.node.attributes.get("starts")
    axes: tuple[int, ...] | None
    if starts is not None:
        axes = tuple(range(len(starts.as_ints()))) if known is None else tuple(known.as_ints())
    elif visit.input(3) is not None:
        axes = integers(visit.input(3))
    else:
        given = integers(visit.input(1))
        axes = None if given is None else tuple(range(len(given)))
    rank = rank_of(visit)
    if axes is None or any(varies(visit.lane, rank - axis % rank) for axis in axes):
        raise visit.refuse("cuts channels")
    same(visit)


def gather(visit: Visit) -> None:
    """Picks places, not channels."""
    shapes, axis = visit.walk.shapes, visit.node.attributes.get_int("axis", 0)
    rank, picked = shapes.rank(visit.node.inputs[0]), shapes.rank(visit.node.inputs[1])
    if visit.index == 1 or rank is None or picked is None or axis is None:
        raise visit.refuse("has an input of unknown rank")
    axis %= rank
    if visit.index is None:
        outer = full(visit.lane, rank - 1 + picked)
        if outer is None or any(outer.shape[a] != 1 for a in range(axis, axis + picked)):
            raise visit.refuse("picks channels")
        inner = outer.reshape((*outer.shape[:axis], 1, *outer.shape[axis + picked :]))
        visit.walk.spread(visit.node.inputs[0], lane(inner))
        return
    inner_lane = full(visit.lane, rank)
    if inner_lane is None or inner_lane.shape[axis] != 1:
        raise visit.refuse("picks channels")
    shape = inner_lane.shape
    visit.walk.spread(
        visit.node.outputs[0],
        lane(inner_lane.reshape((*shape[:axis], *[1] * picked, *shape[axis + 1 :]))),
    )


def expand(visit: Visit) -> None:
    """Repeats what is there; its channels stay where they had a size before."""
    if visit.index not in (None, 0):
        raise visit.refuse("reads it as a shape")
    if visit.index is None:
        shape = visit.walk.shapes.shape(visit.node.inputs[0])
        rank = 0 if shape is None else len(shape)
        if shape is None or visit.lane.ndim > rank:
            raise visit.refuse("has an unknown shape")
    same(visit)
