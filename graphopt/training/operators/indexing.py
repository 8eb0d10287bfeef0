"""Operators that read elements at places that a tensor tells."""

from __future__ import annotations

import torch

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Numbers, Value, integer_of, integers_of, numbers, tensor_of
from graphopt.training.operators.registry import ML, operator
from graphopt.training.operators.shapes import axis_of


def from_front(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return places counted from the front: negative ones count from behind."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather", numbers=(1,))
def gather(call: Call, data: torch.Tensor, indices: Value) -> torch.Tensor:
    """Take slices of an axis."""
    axis = axis_of(call.integer("axis", 0), data.ndim)
    bits = movable(data)
    if isinstance(indices, Numbers) and not indices.array.shape:
        first = integer_of(indices)
        if isinstance(first, int):
            return moved(bits.select(axis, first), data.dtype)
    given = tensor_of(indices, data.device)
    places = from_front(given, data.shape[axis])
    taken = bits.index_select(axis, places.reshape(-1))
    sizes = (*data.shape[:axis], *given.shape, *data.shape[axis + 1 :])
    return moved(taken.reshape(sizes), data.dtype)


@operator("GatherElements")
def gather_elements(call: Call, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Take one element of an axis for each index."""
    axis = axis_of(call.integer("axis", 0), data.ndim)
    places = from_front(indices, data.shape[axis])
    return moved(movable(data).gather(axis, places), data.dtype)


@operator("GatherND")
def gather_nd(call: Call, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Take the slices that rows of indices lead to."""
    batches = call.integer("batch_dims", 0)
    rows = indices.long().unbind(-1)
    rank = indices.ndim - 1
    own = [
        torch.arange(size, device=data.device).reshape([-1] + [1] * (rank - 1 - axis))
        for axis, size in enumerate(data.shape[:batches])
    ]
    if not own and not rows:
        return data.expand(*indices.shape[:-1], *data.shape)
    return moved(movable(data)[(*own, *rows)], data.dtype)


@operator("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(_: Call, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Take features: slices of the last axis."""
    taken = data.unsqueeze(0) if data.ndim == 1 else data
    return taken.index_select(-1, indices.reshape(-1).long())


@operator("OneHot", numbers=(1,))
def one_hot(call: Call, indices: torch.Tensor, depth: Value, values: torch.Tensor) -> torch.Tensor:
    """Put the second value at the places of an axis that the indices tell, else the first."""
    axis = axis_of(call.integer("axis", -1), indices.ndim + 1)
    size = integer_of(depth)
    places = from_front(indices, size).unsqueeze(axis)
    counted = torch.arange(size, device=indices.device)
    is_on = places == counted.reshape([-1] + [1] * (indices.ndim - axis))
    bits = movable(values)
    return moved(torch.where(is_on, bits[1], bits[0]), values.dtype)


@operator("Compress", numbers=(1,))
def compress(call: Call, data: torch.Tensor, condition: Value) -> torch.Tensor:
    """Take the slices of an axis, or the elements, for which a condition holds."""
    if isinstance(condition, Numbers):
        held = [index for index, each in enumerate(integers_of(condition)) if each]
        places = numbers(held).tensor(data.device)
    else:
        places = condition.nonzero().squeeze(1)
    bits = movable(data)
    if not call.has("axis"):
        return moved(bits.reshape(-1).index_select(0, places), data.dtype)
    return moved(bits.index_select(axis_of(call.integer("axis"), data.ndim), places), data.dtype)


@operator("NonZero")
def non_zero(_: Call, data: torch.Tensor) -> torch.Tensor:
    """Return where elements are not 0, one row for each axis."""
    is_held = movable(data) != 0
    return (is_held if data.ndim else is_held.reshape(1)).nonzero().t()


@operator("Unique")
def unique(call: Call, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return each element, or slice, once; where it is first, where each went, how many were."""
    axis = axis_of(call.integer("axis"), data.ndim) if call.has("axis") else None
    found, inverse, counts = torch.unique(
        data, sorted=True, return_inverse=True, return_counts=True, dim=axis
    )
    inverse = inverse.reshape(-1)
    places = torch.arange(inverse.shape[0], device=data.device)
    none = torch.full_like(counts, inverse.shape[0])
    first = none.scatter_reduce(0, inverse, places, "amin")
    if not call.integer("sorted", 1):
        order = first.argsort()
        found = found.index_select(0 if axis is None else axis, order)
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return found, first, inverse, counts
