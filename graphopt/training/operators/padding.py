"""Operators that add to a tensor at its edges, or take away there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.edges import padded
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Numbers, Value, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of
from graphopt.training.sizes import Size, larger

Ends = Sequence[tuple[int, Any, Any]]
"""Axes with what is added before and behind."""


@operator("Pad", numbers=(1, 2, 3))
def pad(
    call: Call, data: torch.Tensor, pads: Value, constant: Value = None, axes: Value = None
) -> torch.Tensor:
    """Add elements before and behind along some axes; negative numbers take away."""
    given = integers_of(pads)
    named = range(data.ndim) if axes is None else integers_of(axes)
    along = [axis_of(axis, data.ndim) for axis in named]
    count = len(given) // 2
    ends = [
        _within(data.shape, axis, before, behind)
        for axis, before, behind in zip(along, given[:count], given[count:], strict=True)
        if not (isinstance(before, int) and isinstance(behind, int) and before == behind == 0)
    ]
    mode = call.text("mode", "constant")
    if mode == "constant":
        return _filled(data, ends, constant)
    cut = movable(_filled(data, [(axis, *map(_cut, both)) for axis, *both in ends], None))
    for axis, before, behind in ends:
        places = _places(mode, cut.shape[axis], _added(before), _added(behind), data.device)
        cut = cut.index_select(axis, places)
    return moved(cut, data.dtype)


def _within(sizes: Sequence[Any], axis: int, before: Any, behind: Any) -> tuple[int, Any, Any]:
    """Let what is taken away before an axis's end be no more than there is, and so behind it."""
    size = sizes[axis]
    if not all(isinstance(each, int) for each in (size, before, behind)):
        return axis, before, behind
    if before < -size:
        return axis, -size, behind + before + size
    if behind < -size:
        return axis, before + behind + size, -size
    return axis, before, behind


def _cut(end: Any) -> Any:
    return min(end, 0) if isinstance(end, int) else 0


def _added(end: Any) -> Any:
    return max(end, 0) if isinstance(end, int) else end


def _filled(data: torch.Tensor, ends: Ends, constant: Value) -> torch.Tensor:
    if not ends:
        return data
    begin: list[Size] = [0] * data.ndim
    end: list[Size] = [0] * data.ndim
    for axis, before, behind in ends:
        begin[axis], end[axis] = before, behind
    if constant is None or (isinstance(constant, Numbers) and not data.dtype.is_floating_point):
        (fill,) = [0] if constant is None else constant.array.reshape(-1).tolist()
        if data.dtype == movable(data).dtype:
            return padded(data, begin, end, fill)
    if isinstance(constant, Numbers):
        constant = constant.tensor(data.device)
    bits = padded(movable(data), begin, end)
    if constant is None:
        return moved(bits, data.dtype)
    inside = padded(torch.ones_like(data, dtype=torch.bool), begin, end)
    return moved(torch.where(inside, bits, movable(constant).reshape(())), data.dtype)


def _places(mode: str, size: Any, before: Any, behind: Any, device: torch.device) -> torch.Tensor:
    """Return which element each one of a padded axis is a copy of."""
    places = torch.arange(-before, size + behind, device=device)
    if mode == "wrap":
        return places.remainder(size)
    if mode == "edge":
        return places.clamp(0, size - 1)
    turn = larger(2 * (size - 1), 1)
    once = places.remainder(turn)
    return torch.minimum(once, turn - once) if size != 1 else torch.zeros_like(places)


@operator("CenterCropPad", numbers=(1,))
def center_crop_pad(call: Call, data: torch.Tensor, target: Value) -> torch.Tensor:
    """Crop or pad with zeros at both ends until the sizes are those that are asked for."""
    axes = call.integers("axes", range(data.ndim))
    ends = []
    for each, wanted in zip(axes, integers_of(target), strict=True):
        axis = axis_of(each, data.ndim)
        size = data.shape[axis]
        before = (wanted - size) // 2 if wanted >= size else -((size - wanted) // 2)
        ends.append((axis, before, wanted - size - before))
    return _filled(data, ends, None)
