"""Pooling over windows, and over all there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.numbers import Value, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.sizes import Size
from graphopt.training.windows import Windows, windows

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _windows(call: Call, x: torch.Tensor) -> Windows:
    return windows(call, call.integers("kernel_shape"), x.shape[2:])


@operator("MaxPool")
def max_pool(call: Call, x: torch.Tensor) -> Any:
    """Return the largest element of each window, and where it is."""
    axes = x.ndim - 2
    if axes not in _MAX:
        raise call.refused(f"PyTorch pools along 1 to 3 axes, not {axes}")
    found = _windows(call, x)
    # 8-bit integers have no kernel of their own.
    wide = x if x.is_floating_point() else x.to(torch.float32)
    inside = all(
        padding <= kernel // 2
        for padding, kernel in zip(found.begin, found.kernel, strict=True)
        if isinstance(padding, int)
    )
    native = found.symmetric and inside and not found.ceil
    if not native:
        wide = found.padded(wide, -math.inf)
    values, places = _MAX[axes](
        wide,
        found.kernel,
        found.strides,
        found.begin if native else 0,
        found.dilations,
        return_indices=True,
    )
    values = values.to(x.dtype)
    if not call.wants(1):
        return values
    shift = [0] * axes if native else found.begin
    column_major = call.integer("storage_order", 0) == 1
    return values, _flat_places(places, wide.shape[2:], shift, x.shape, column_major)


def _flat_places(
    places: torch.Tensor,
    padded: Sequence[Size],
    shift: Sequence[Size],
    shape: Sequence[Size],
    column_major: bool,
) -> torch.Tensor:
    """Turn positions in one padded channel into positions in the whole tensor."""
    coordinates: list[torch.Tensor] = []
    for size, before in zip(reversed(padded), reversed(shift), strict=True):
        coordinates.insert(0, places % size - before)
        places = places // size
    sizes = list(shape[2:])
    flat = torch.zeros_like(places)
    order = range(len(sizes))
    for axis in reversed(order) if column_major else order:
        flat = flat * sizes[axis] + coordinates[axis]
    channels = torch.arange(shape[0] * shape[1], device=places.device)
    first: torch.Tensor = channels * math.prod(sizes)
    return flat + first.reshape(shape[0], shape[1], *[1] * len(sizes))


@operator("AveragePool")
def average_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the mean of each window."""
    axes = x.ndim - 2
    found = _windows(call, x)
    with_padding = call.integer("count_include_pad", 0) == 1
    if _averages(found, axes):
        made: torch.Tensor = _AVERAGE[axes](
            x, found.kernel, found.strides, found.begin, False, with_padding
        )
        return made
    total: torch.Tensor = found.padded(x, 0)
    for axis in range(axes):
        total = _sums(total, axis + 2, found, axis)
    ones = torch.ones(x.shape[2:], dtype=torch.float32, device=x.device)
    counts = found.padded(ones, 1 if with_padding else 0, beyond=0)
    for axis in range(axes):
        counts = _sums(counts, axis, found, axis)
    return total / torch.clamp(counts, min=1).to(x.dtype)


def _averages(found: Windows, axes: int) -> bool:
    """Whether PyTorch's own function computes the same."""
    return (
        axes in _AVERAGE
        and not found.ceil
        and found.symmetric
        and all(each == 1 for each in found.dilations)
        and all(
            padding <= kernel // 2
            for padding, kernel in zip(found.begin, found.kernel, strict=True)
        )
    )


def _sums(x: torch.Tensor, axis: int, found: Windows, index: int) -> torch.Tensor:
    return _along(x, axis, found, index).sum(-1)


def _along(x: torch.Tensor, axis: int, found: Windows, index: int) -> torch.Tensor:
    """Return the windows along one axis, their elements along a new last one."""
    view = x.unfold(axis, found.extents[index], found.strides[index])
    return view[..., :: found.dilations[index]]


@operator("LpPool")
def lp_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the norm of each window."""
    found = _windows(call, x)
    view = found.padded(x, 0)
    for axis in range(x.ndim - 2):
        view = _along(view, axis + 2, found, axis)
    return _norm(call, view, tuple(range(x.ndim, view.ndim)))


def _norm(
    call: Call, x: torch.Tensor, axes: tuple[int, ...], keepdim: bool = False
) -> torch.Tensor:
    order = call.integer("p", 2)
    made: torch.Tensor = torch.linalg.vector_norm(x, order, axes, keepdim)
    return made


def _spatial(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel."""
    return x.mean(_spatial(x), keepdim=True) if x.ndim > 2 else x


@operator("GlobalMaxPool")
def global_max_pool(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the largest element of each channel."""
    return x.amax(_spatial(x), keepdim=True) if x.ndim > 2 else x


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the norm of each channel."""
    return _norm(call, x, _spatial(x), keepdim=True) if x.ndim > 2 else x.abs()


@operator("MaxUnpool", numbers=(2,))
def max_unpool(
    call: Call, x: torch.Tensor, places: torch.Tensor, output_shape: Value = None
) -> torch.Tensor:
    """Put elements back where MaxPool found them, and zeros elsewhere."""
    if output_shape is not None:
        shape = integers_of(output_shape)
    else:
        axes = x.ndim - 2
        kernel = call.integers("kernel_shape")
        strides = call.integers("strides", [1] * axes)
        pads = call.integers("pads", [0] * (2 * axes))
        shape = [*x.shape[:2]] + [
            (size - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + axes]
            for axis, size in enumerate(x.shape[2:])
        ]
    made = x.new_zeros(math.prod(shape))
    return made.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)
