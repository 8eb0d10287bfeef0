"""Operators that read a shape or change it, and those that make tensors of a shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false, statically_known_true

from graphopt.errors import GraphoptError
from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.moving import moved, moved_as
from graphopt.training.numbers import Numbers, Value, integers_of, number, numbers
from graphopt.training.operators.registry import operator

_CHECK: Any = torch._check

Sizes = Sequence[Any]
"""Sizes of a tensor: integers, or symbolic ones."""


@operator("Shape")
def shape(call: Call, data: torch.Tensor) -> Numbers:
    """Return the sizes from the axis `start` to the one before `end`."""
    return shape_of(call, data.shape)


def shape_of(call: Call, sizes: Sizes) -> Numbers:
    """Return those of some sizes that a Shape node asks for."""
    start = call.integer("start", 0)
    end = call.integer("end") if call.has("end") else len(sizes)
    return numbers(sizes[start:end])


@operator("Size")
def size(_: Call, data: torch.Tensor) -> Numbers:
    """Return the number of elements."""
    return number(math.prod(data.shape))


@operator("Reshape", numbers=(1,))
def reshape(call: Call, data: torch.Tensor, target: Value) -> torch.Tensor:
    """Give the elements other sizes, of which 0 takes the input's and -1 what is left."""
    return data.reshape(reshaped(call, data.shape, integers_of(target)))


def reshaped(call: Call, sizes: Sizes, target: Sizes) -> list[Any]:
    """Return the sizes that a Reshape node gives a tensor.

    Args:
        call: The node.
        sizes: What the tensor has.
        target: What the node asks for.

    Raises:
        GraphoptError: A 0 stands behind the input's last axis.
    """
    asked = list(target)
    copied: set[int] = set()
    if not call.integer("allowzero", 0):
        copied.update(index for index, each in enumerate(asked) if is_known(each, 0))
        if copied and max(copied) >= len(sizes):
            raise call.refused(f"0 is asked for axis {max(copied)} of {len(sizes)}")
        asked = [sizes[index] if index in copied else each for index, each in enumerate(asked)]
    free = next((index for index, each in enumerate(asked) if is_known(each, -1)), None)
    if free is not None and any(is_known(each, 0) for each in asked):
        # Nothing follows from a product of 0: what is copied divides out of both sides.
        given = math.prod(each for index, each in enumerate(sizes) if index not in copied)
        rest = [each for index, each in enumerate(asked) if index not in {free, *copied}]
        asked[free] = 0 if any(is_known(each, 0) for each in rest) else given // math.prod(rest)
    return asked


def is_known(size: Any, value: int) -> bool:
    """Whether a size is that number; one that is symbolic is not asked."""
    return isinstance(size, int) and size == value


@operator("Flatten")
def flatten(call: Call, data: torch.Tensor) -> torch.Tensor:
    """Make a matrix: the axes before `axis` are its rows."""
    sizes = data.shape
    at = rows_of(call, data.ndim)
    return data.reshape(math.prod(sizes[:at]), math.prod(sizes[at:]))


def rows_of(call: Call, rank: int) -> int:
    """Return how many of the first axes a Flatten node makes rows of; all of them may be."""
    axis = call.integer("axis", 1)
    return axis if axis == rank else axis_of(axis, rank)


@operator("Squeeze", numbers=(1,))
def squeeze(call: Call, data: torch.Tensor, axes: Value = None) -> torch.Tensor:
    """Take away axes of size 1: those that are named, or all."""
    dropped = () if axes is None else tuple(axis_of(at, data.ndim) for at in integers_of(axes))
    if not dropped:
        return data.squeeze()
    for axis in sorted(dropped, reverse=True):
        size = data.shape[axis]
        if isinstance(size, int) and size != 1:
            raise call.refused(f"axis {axis} has size {size}, not 1")
        _CHECK(size == 1, functools.partial("{}: axis {} has not size 1".format, call, axis))
        # A squeeze would keep an axis whose size torch.export does not know.
        data = data.select(axis, 0)
    return data


@operator("Unsqueeze", numbers=(1,))
def unsqueeze(_: Call, data: torch.Tensor, axes: Value) -> torch.Tensor:
    """Put in axes of size 1, at the places that they have in the output."""
    added = integers_of(axes)
    rank = data.ndim + len(added)
    for axis in sorted(axis_of(axis, rank) for axis in added):
        data = data.unsqueeze(axis)
    return data


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        GraphoptError: There is none.
    """
    if not -rank <= axis < rank:
        raise GraphoptError(f"there is no axis {axis} among {rank}")
    return axis % rank


@operator("Transpose")
def transpose(call: Call, data: torch.Tensor) -> torch.Tensor:
    """Put the axes in another order, without one in the reverse one."""
    return data.permute(call.integers("perm", range(data.ndim)[::-1]))


@operator("Expand", numbers=(1,))
def expand(_: Call, data: torch.Tensor, target: Value) -> torch.Tensor:
    """Repeat along axes of size 1, on either side, until the sizes are the same."""
    return data.expand(broadcast(data.shape, integers_of(target)))


def broadcast(sizes: Sizes, target: Sizes) -> list[Any]:
    """Return the sizes that two tensors have when each is broadcast to the other.

    A symbolic size is compared with the other one only where nothing else tells the result.
    """
    rank = max(len(sizes), len(target))
    padded = ([1] * (rank - len(each)) + list(each) for each in (sizes, target))
    return [_broadcast(one, other) for one, other in zip(*padded, strict=True)]


def _broadcast(one: Any, other: Any) -> Any:
    if is_known(other, 1):
        return one
    if is_known(one, 1):
        return other
    if isinstance(one, int):
        return one
    if isinstance(other, int) or statically_known_true(one == other):
        return other
    return other if guard_or_false(one == 1) else one


@operator("ConstantOfShape", numbers=(0,))
def constant_of_shape(call: Call, target: Value) -> torch.Tensor:
    """Make a tensor of one value."""
    fill, dtype = filled(call)
    bits = moved_as(dtype)
    return moved(torch.full(integers_of(target), fill, dtype=bits, device=call.device), dtype)


def filled(call: Call) -> tuple[Any, torch.dtype]:
    """Return what a ConstantOfShape node fills with, as `movable` numbers are, and its type."""
    if not call.has("value"):
        return 0.0, torch.float32
    # The attribute's tensor is no part of what torch.export records.
    tensor = call.node.attributes["value"].value
    dtype = torch_dtype(tensor.dtype)
    bits = moved_as(dtype)
    array = tensor.numpy().reshape(())
    if bits != dtype:
        return array.view(str(bits).removeprefix("torch.")).item(), dtype
    kind = complex if dtype.is_complex else float if dtype.is_floating_point else int
    return kind(array), dtype


@operator("Range", numbers=(0, 1, 2))
def arange(call: Call, start: Value, limit: Value, delta: Value) -> torch.Tensor:
    """Count from `start` to before `limit`."""
    dtype = call.output_dtype()
    bounds = [_single_number(each) for each in (start, limit, delta)]
    if isinstance(bounds[2], int | float) and bounds[2] == 0:
        raise call.refused("it counts in steps of 0")
    if all(isinstance(each, int | torch.SymInt) for each in bounds):
        return _counted(bounds, dtype, call.device)
    first, last, step = bounds
    count = max(math.ceil((last - first) / step), 0)
    factor, offset = (_differentiable(each) for each in (delta, start))
    counted: torch.Tensor = torch.arange(count, device=call.device).to(dtype) * factor + offset
    return counted


def _differentiable(value: Value) -> Any:
    return value if isinstance(value, torch.Tensor) else _single_number(value)


def _single_number(value: Value) -> Any:
    return value.array.reshape(()).item() if isinstance(value, Numbers) else value.item()


def _counted(
    bounds: Sequence[Any], dtype: torch.dtype, device: torch.device | None
) -> torch.Tensor:
    first, last, step = bounds
    if all(isinstance(each, int) for each in bounds) and (last - first) * step < 0:
        return torch.empty(0, dtype=dtype, device=device)
    return torch.arange(first, last, step, dtype=dtype, device=device)


@operator("EyeLike")
def eye_like(call: Call, data: torch.Tensor) -> torch.Tensor:
    """Make a matrix of the input's sizes with ones on a diagonal."""
    rows, columns = (torch.arange(each, device=data.device) for each in data.shape)
    diagonal = columns - rows.unsqueeze(1) == call.integer("k", 0)
    return diagonal.to(call.output_dtype() if call.has("dtype") else data.dtype)
