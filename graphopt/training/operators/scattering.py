"""Operators that write elements at places that a tensor tells."""

from __future__ import annotations

import math

import torch

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.operators.indexing import from_front
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""PyTorch's names of ONNX's reductions."""

_WIDER = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}
"""Types that PyTorch reduces no elements of, by those that hold theirs."""


@operator("ScatterElements", "Scatter")
def scatter_elements(
    call: Call, data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    """Write, or reduce with what is there, one element of an axis for each index."""
    axis = axis_of(call.integer("axis", 0), data.ndim)
    places = from_front(indices, data.shape[axis])
    return _scattered(data, axis, places, updates, call.text("reduction", "none"))


@operator("ScatterND")
def scatter_nd(
    call: Call, data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    """Write, or reduce with what is there, the slices that rows of indices lead to."""
    depth = indices.shape[-1]
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for index, size in zip(indices.unbind(-1), data.shape[:depth], strict=True):
        rows = rows * size + from_front(index, size)
    width = math.prod(data.shape[depth:])
    flat = data.reshape(math.prod(data.shape[:depth]), width)
    places = rows.reshape(-1, 1).expand(rows.numel(), width)
    written = updates.reshape(rows.numel(), width)
    reduction = call.text("reduction", "none")
    return _scattered(flat, 0, places, written, reduction).reshape(data.shape)


def _scattered(
    data: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    if reduction == "none":
        return moved(movable(data).scatter(axis, places, movable(updates)), data.dtype)
    wide = _WIDER.get(data.dtype, data.dtype)
    reduced = data.to(wide).scatter_reduce(axis, places, updates.to(wide), _REDUCTIONS[reduction])
    return reduced.to(data.dtype)


@operator("TensorScatter")
def tensor_scatter(
    call: Call, cache: torch.Tensor, update: torch.Tensor, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """Write slices of an axis into a cache, from a start for each sample on."""
    axis = axis_of(call.integer("axis", -2), cache.ndim)
    steps = torch.arange(update.shape[axis], device=cache.device).unsqueeze(0)
    places = steps if starts is None else starts.long().unsqueeze(1) + steps
    if call.text("mode", "linear") == "circular":
        places = places.remainder(cache.shape[axis])
    sizes = [1] * cache.ndim
    sizes[0], sizes[axis] = places.shape
    index = places.reshape(sizes).expand(update.shape)
    return moved(movable(cache).scatter(axis, index, movable(update)), cache.dtype)
