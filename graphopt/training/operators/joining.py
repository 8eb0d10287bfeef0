"""Operators that join tensors, take them apart and repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Value, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of


@operator("Concat")
def concat(call: Call, *parts: torch.Tensor) -> torch.Tensor:
    """Join along an axis."""
    axis = axis_of(call.integer("axis"), max(each.ndim for each in parts))
    joined = torch.cat([movable(each) for each in parts], axis)
    return moved(joined, parts[0].dtype)


@operator("Split", numbers=(1,))
def split(call: Call, data: torch.Tensor, sizes: Value = None) -> tuple[torch.Tensor, ...]:
    """Take apart along an axis."""
    axis = axis_of(call.integer("axis", 0), data.ndim)
    given = None if sizes is None else integers_of(sizes)
    return parted(data, split_sizes(call, data.shape[axis], given), axis)


def parted(data: torch.Tensor, sizes: Sequence[Any], axis: int) -> tuple[torch.Tensor, ...]:
    """Take a tensor apart into parts of some sizes."""
    parts = movable(data).split_with_sizes(sizes, axis)
    return tuple(moved(each, data.dtype) for each in parts)


def split_sizes(call: Call, size: Any, given: Sequence[Any] | None) -> list[Any]:
    """Return the sizes of what a Split node makes of an axis.

    Args:
        call: The node.
        size: The axis's.
        given: What the node asks for.

    Raises:
        GraphoptError: They are not the axis's, or the axis is too short.
    """
    if given is not None:
        if all(isinstance(each, int) for each in (size, *given)) and sum(given) != size:
            raise call.refused(f"parts of {list(given)} do not make up {size}")
        return list(given)
    count = call.integer("num_outputs", call.outputs)
    each = -(-size // count)
    last = size - each * (count - 1)
    if isinstance(last, int) and last < 0:
        raise call.refused(f"an axis of size {size} makes no {count} parts")
    return [each] * (count - 1) + [last]


@operator("Tile", numbers=(1,))
def tile(_: Call, data: torch.Tensor, repeats: Value) -> torch.Tensor:
    """Repeat along each axis."""
    return moved(movable(data).repeat(integers_of(repeats)), data.dtype)
