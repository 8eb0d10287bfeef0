"""Resize, one axis after the other: each output element is a weighted sum of a few of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of
from graphopt.training.sizes import Size

Real = Any
"""A float, or a symbolic one."""


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized.

    Args:
        index: The axis.
        old: Its size.
        new: Its new size.
        scale: What ONNX divides coordinates by: as given, else new / old.
        start: Where the region of interest starts, as a part of the axis.
        end: Where it ends.
    """

    index: int
    old: Size
    new: Size
    scale: Real
    start: Real = 0.0
    end: Real = 1.0


@operator("Resize", numbers=(1, 2, 3))
def resize(
    call: Call, x: torch.Tensor, roi: Value = None, scales: Value = None, sizes: Value = None
) -> torch.Tensor:
    """Resize by sampling anew."""
    axes = _axes(call, x, roi, scales, sizes)
    mode = call.text("mode", "nearest")
    coordinates = call.text("coordinate_transformation_mode", "half_pixel")
    if coordinates != "tf_crop_and_resize":
        # An axis with a scale of 1 keeps its elements.
        axes = [axis for axis in axes if not (_is(axis.scale, 1) and _is(axis.new, axis.old))]
    if not axes:
        return x
    native = _native(call, x, axes, mode, coordinates)
    if native is not None:
        return native
    computed = x if mode == "nearest" or x.dtype == torch.float64 else x.to(torch.float32)
    outside: torch.Tensor | None = None
    for axis in axes:
        position = _positions(axis, coordinates, x.device)
        if mode == "nearest":
            places = _nearest(call, position)
            computed = computed.index_select(axis.index, places.clamp(min=0, max=axis.old - 1))
        else:
            computed = _interpolated(call, computed, axis, position, mode)
        if coordinates == "tf_crop_and_resize":
            shape = [1] * x.ndim
            shape[axis.index] = -1
            beyond = ((position < 0) | (position > axis.old - 1)).reshape(shape)
            outside = beyond if outside is None else outside | beyond
    if not x.is_floating_point() and computed.dtype != x.dtype:
        computed = _to_integer(computed, x.dtype)
    computed = computed.to(x.dtype)
    if outside is not None:
        value = call.real("extrapolation_value", 0.0)
        computed = torch.where(outside, torch.full_like(computed, value), computed)
    return computed


def _to_integer(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    info = torch.iinfo(dtype)
    return value.clamp(info.min, info.max).trunc().to(dtype)


def _is(one: Any, other: Any) -> bool:
    """Whether two numbers are known to be equal."""
    if one is other:
        return True
    known = isinstance(one, int | float) and isinstance(other, int | float)
    if not known and isinstance(one, torch.SymInt) and isinstance(other, torch.SymInt):
        return bool(one.node.expr == other.node.expr)
    return known and one == other


def _reals(value: Value) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Numbers):
        return [
            each if isinstance(each, torch.SymFloat | torch.SymInt) else float(each)
            for each in value.array.reshape(-1).tolist()
        ]
    return [float(each) for each in value.detach().reshape(-1).tolist()]


def _axes(call: Call, x: torch.Tensor, roi: Value, scales: Value, sizes: Value) -> list[_Axis]:
    listed = [axis_of(axis, x.ndim) for axis in call.integers("axes", list(range(x.ndim)))]
    regions = _reals(roi)
    if call.text("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        regions = []
    count = len(listed)
    if regions and len(regions) != 2 * count:
        raise call.refused(f"its roi has {len(regions)} numbers, and not {2 * count}")
    factors = _reals(scales)
    found = []
    if factors:
        for place, axis in enumerate(listed):
            old = x.shape[axis]
            new = _scaled(old, factors[place])
            found.append((axis, old, new, factors[place]))
    else:
        wanted = _kept_aspect(call, [x.shape[axis] for axis in listed], integers_of(sizes))
        for place, axis in enumerate(listed):
            old = x.shape[axis]
            new, factor = wanted[place]
            found.append((axis, old, new, factor))
    return [
        _Axis(*axis, *(regions[place::count] if regions else ()))
        for place, axis in enumerate(found)
    ]


def _scaled(old: Size, factor: Real) -> Size:
    """Return the size that a scale makes; like ONNX Runtime, of the whole axis, not of its roi."""
    if isinstance(factor, float) and factor.is_integer():
        return old * int(factor)
    if isinstance(old, int) and isinstance(factor, float):
        return math.floor(float(torch.tensor(factor) * old))
    return math.floor(old * factor)


def _kept_aspect(
    call: Call, olds: Sequence[Size], sizes: Sequence[Size]
) -> list[tuple[Size, Real]]:
    """Return the sizes and the scales that sizes stand for."""
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    factors = [new / old for new, old in zip(sizes, olds, strict=True)]
    if policy == "stretch":
        return list(zip(sizes, factors, strict=True))
    factor = min(factors) if policy == "not_larger" else max(factors)
    # Half a pixel and more is rounded up.
    return [(math.floor(factor * old + 0.5), factor) for old in olds]


def _native(
    call: Call, x: torch.Tensor, axes: Sequence[_Axis], mode: str, coordinates: str
) -> torch.Tensor | None:
    """Use PyTorch's own function where it computes the same."""
    spatial = x.ndim == 4 and all(axis.index >= 2 for axis in axes)
    if not spatial or not x.is_floating_point() or call.integer("antialias", 0):
        return None
    # PyTorch takes the scale from the sizes.
    if not all(_integral(axis) or _is(axis.scale, axis.new / axis.old) for axis in axes):
        return None
    sizes = list(x.shape[2:])
    for axis in axes:
        sizes[axis.index - 2] = axis.new
    if mode == "linear" and len(axes) == 2 and coordinates in ("half_pixel", "align_corners"):
        aligned = coordinates == "align_corners"
        return functional.interpolate(x, sizes, mode="bilinear", align_corners=aligned)
    floor = coordinates == "asymmetric" and call.text("nearest_mode", "") == "floor"
    if mode == "nearest" and floor and all(map(_integral, axes)):
        return functional.interpolate(x, sizes, mode="nearest")
    return None


def _integral(axis: _Axis) -> bool:
    return isinstance(axis.scale, float) and axis.scale.is_integer()


def _positions(axis: _Axis, coordinates: str, device: torch.device) -> torch.Tensor:
    """Return where in the input the centres of the output's elements lie."""
    at = torch.arange(axis.new, device=device).to(torch.float32)
    if _is(axis.scale, 1):
        # Even where tf_crop_and_resize crops: ONNX Runtime does so.
        return at
    return _COORDINATES[coordinates](at, axis)


def _scale(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    """Return the scale as ONNX Runtime rounds it."""
    return torch.full((), axis.scale, dtype=at.dtype, device=at.device)


def _asymmetric(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    return at / _scale(at, axis)


def _align_corners(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    if _is(axis.new, 1):
        return torch.zeros_like(at)
    stretched: torch.Tensor = at * (axis.old - 1) / (axis.new - 1)
    return stretched


def _crop(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    # Rounded step by step as ONNX Runtime does: it decides whether the last element is outside.
    start = torch.full_like(at, axis.start)
    end = torch.full_like(at, axis.end)
    last = axis.old - 1
    if _is(axis.new, 1):
        middle: torch.Tensor = 0.5 * (start + end) * last
        return middle
    moved: torch.Tensor = start * last + at * (end - start) * last / (axis.new - 1)
    return moved


def _half_pixel(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    return (at + 0.5) / _scale(at, axis) - 0.5


def _pytorch_half_pixel(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    return torch.zeros_like(at) if _is(axis.new, 1) else _half_pixel(at, axis)


def _half_pixel_symmetric(at: torch.Tensor, axis: _Axis) -> torch.Tensor:
    # What rounding cut off the new size is left out at both ends alike.
    scale = _scale(at, axis)
    kept: torch.Tensor = axis.new / (scale * axis.old)
    centre: torch.Tensor = (1 - kept) * (axis.old / 2)
    return centre + (at + 0.5) / scale - 0.5


_COORDINATES: dict[str, Callable[[torch.Tensor, _Axis], torch.Tensor]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_crop_and_resize": _crop,
}


def _nearest(call: Call, position: torch.Tensor) -> torch.Tensor:
    name = call.text("nearest_mode", "round_prefer_floor")
    if name == "floor":
        rounded = torch.floor(position)
    elif name == "ceil":
        rounded = torch.ceil(position)
    elif name == "round_prefer_ceil":
        rounded = torch.floor(position + 0.5)
    else:
        rounded = torch.ceil(position - 0.5)
    return rounded.to(torch.int64)


def _interpolated(
    call: Call, x: torch.Tensor, axis: _Axis, position: torch.Tensor, mode: str
) -> torch.Tensor:
    shrinks = call.integer("antialias", 0) == 1 and bool(axis.scale < 1)
    reach = 1 if mode == "linear" else 2
    # A filter that takes in all of the input that an output element covers is as much wider.
    stretch = 1 / axis.scale if shrinks else 1.0
    half = math.ceil(reach * stretch)
    first = torch.floor(position)
    offsets = torch.arange(1 - half, half + 1, device=x.device)
    if shrinks:
        offsets = torch.arange(-half, half + 2, device=x.device)
    places = first.unsqueeze(1).to(torch.int64) + offsets
    distance = (places - position.unsqueeze(1)).abs() / stretch
    weights = _linear(distance) if mode == "linear" else _cubic(call, distance)
    beyond = (places < 0) | (places > axis.old - 1)
    if call.integer("exclude_outside", 0):
        weights = torch.where(beyond, torch.zeros_like(weights), weights)
    if shrinks or mode == "cubic":
        weights = weights / weights.sum(1, keepdim=True)
    places = places.clamp(min=0, max=axis.old - 1)
    return _weighted(x, axis.index, places, weights.to(x.dtype))


def _linear(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(call: Call, distance: torch.Tensor) -> torch.Tensor:
    a = call.real("cubic_coeff_a", -0.75)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    zero = torch.zeros_like(distance)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))


def _weighted(
    x: torch.Tensor, axis: int, places: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sum up the elements at some places of an axis, (new size, terms), by their weights."""
    shape = [1] * x.ndim
    shape[axis] = -1
    total: torch.Tensor | None = None
    for term in range(places.shape[1]):
        part = x.index_select(axis, places[:, term]) * weights[:, term].reshape(shape)
        total = part if total is None else total + part
    return x if total is None else total
