"""Operators that take a part of a tensor along its axes."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Value, integer_of, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of
from graphopt.training.sizes import larger

_LARGEST = 2**63 - 1
_WHOLE = (_LARGEST, 2**31 - 1)


@operator("Slice", numbers=(1, 2, 3, 4))
def slice_(
    _: Call,
    data: torch.Tensor,
    starts: Value,
    ends: Value,
    axes: Value = None,
    steps: Value = None,
) -> torch.Tensor:
    """Take every `step`-th element from a start to before an end, along some axes."""
    first, last = integers_of(starts), integers_of(ends)
    along = range(len(first)) if axes is None else integers_of(axes)
    strides = [1] * len(first) if steps is None else integers_of(steps)
    sliced = movable(data)
    for start, end, axis, step in zip(first, last, along, strides, strict=True):
        sliced = _sliced(sliced, start, end, axis_of(axis, data.ndim), step)
    return moved(sliced, data.dtype)


def _sliced(data: torch.Tensor, start: Any, end: Any, axis: int, step: int) -> torch.Tensor:
    if step < 0:
        size = data.shape[axis]
        start, end = _from_behind(start, size), _from_behind(ended(end, step), size)
        data, step = data.flip(axis), -step
        if isinstance(size, int):
            start = min(start, max(size - 1, 0))
    taken: list[slice] = [slice(None)] * axis
    first, last = (_bounded(each) for each in (start, end))
    return data[(*taken, slice(first, last, step))]


def _bounded(place: Any) -> Any:
    """Return a place that PyTorch takes without a warning; no axis is as long."""
    return max(min(place, 1 << 62), -(1 << 62)) if isinstance(place, int) else place


def ended(end: Any, step: int) -> Any:
    """Return the end of a slice: backwards, the largest integers mean the first element.

    ONNX Runtime reads them so, where the standard would take nothing.
    """
    return -_LARGEST if step < 0 and isinstance(end, int) and end in _WHOLE else end


def _from_behind(place: Any, size: Any) -> Any:
    """Return where a place is in the reversed axis; one behind the end is its first."""
    if isinstance(place, int) and place < 0:
        return -1 - place
    return larger(size - 1 - place, 0)


@operator("Trilu", numbers=(1,))
def trilu(call: Call, data: torch.Tensor, k: Value = None) -> torch.Tensor:
    """Keep what is above or below a diagonal, and put 0 elsewhere."""
    rows, columns = (torch.arange(each, device=data.device) for each in data.shape[-2:])
    # A tensor `k` stays one: to read it would fix it in torch.export.
    diagonal = k if isinstance(k, torch.Tensor) else 0 if k is None else integer_of(k)
    offset = columns - rows.unsqueeze(1)
    kept = offset >= diagonal if call.integer("upper", 1) else offset <= diagonal
    bits = movable(data)
    return moved(
        bits.where(kept, torch.zeros((), dtype=bits.dtype, device=data.device)), data.dtype
    )


@operator("DepthToSpace")
def depth_to_space(call: Call, data: torch.Tensor) -> torch.Tensor:
    """Move channels into blocks of pixels."""
    block = call.integer("blocksize")
    batch, channels, height, width = data.shape
    left = channels // (block * block)
    if call.text("mode", "DCR") == "DCR":
        split = data.reshape(batch, block, block, left, height, width)
        ordered = split.permute(0, 3, 4, 1, 5, 2)
    else:
        split = data.reshape(batch, left, block, block, height, width)
        ordered = split.permute(0, 1, 4, 2, 5, 3)
    return ordered.reshape(batch, left, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, data: torch.Tensor) -> torch.Tensor:
    """Move blocks of pixels into channels."""
    block = call.integer("blocksize")
    batch, channels, height, width = data.shape
    high, wide = height // block, width // block
    split = data.reshape(batch, channels, high, block, wide, block)
    order = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return split.permute(order).reshape(batch, channels * block * block, high, wide)


@operator("ReverseSequence")
def reverse_sequence(call: Call, data: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Reverse the first elements of each sequence, as many as it has."""
    time = axis_of(call.integer("time_axis", 0), data.ndim)
    batch = axis_of(call.integer("batch_axis", 1), data.ndim)
    steps = torch.arange(data.shape[time], device=data.device)
    ends = lengths.long().unsqueeze(1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    if time < batch:
        order = order.t()
    sizes = [data.shape[axis] if axis in (time, batch) else 1 for axis in range(data.ndim)]
    index = order.reshape(sizes).expand(data.shape)
    return moved(movable(data).gather(time, index), data.dtype)
