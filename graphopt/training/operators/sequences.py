"""Operators on lists of tensors, and on what may be left out."""

from __future__ import annotations

import torch

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Numbers, Value, integer_of, integers_of, number
from graphopt.training.operators.joining import parted
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

Sequence = list[torch.Tensor]


@operator("SequenceEmpty")
def sequence_empty(_: Call) -> Sequence:
    """Return a list of nothing."""
    return []


@operator("SequenceConstruct")
def sequence_construct(_: Call, *tensors: torch.Tensor) -> Sequence:
    """List tensors."""
    return list(tensors)


@operator("SequenceAt", numbers=(1,))
def sequence_at(call: Call, sequence: Sequence, position: Value) -> torch.Tensor:
    """Return one of the tensors."""
    return sequence[_place(call, position, len(sequence))]


@operator("SequenceInsert", numbers=(2,))
def sequence_insert(
    call: Call, sequence: Sequence, tensor: torch.Tensor, position: Value = None
) -> Sequence:
    """Put in a tensor, at the end without a position."""
    count = len(sequence)
    at = count if position is None else _place(call, position, count, end=1)
    return [*sequence[:at], tensor, *sequence[at:]]


@operator("SequenceErase", numbers=(1,))
def sequence_erase(call: Call, sequence: Sequence, position: Value = None) -> Sequence:
    """Leave out a tensor, the last one without a position."""
    at = len(sequence) - 1 if position is None else _place(call, position, len(sequence))
    return [*sequence[:at], *sequence[at + 1 :]]


def _place(call: Call, position: Value, count: int, end: int = 0) -> int:
    at = integer_of(position)
    if not isinstance(at, int):
        raise call.refused("a position in a list depends on data", "export a model without lists")
    if not -count <= at < count + end:
        raise call.refused(f"there is no position {at} among {count}")
    return at if at >= 0 else at + count


@operator("SequenceLength")
def sequence_length(_: Call, sequence: Sequence) -> Numbers:
    """Return how many tensors there are."""
    return number(len(sequence))


@operator("ConcatFromSequence")
def concat_from_sequence(call: Call, sequence: Sequence) -> torch.Tensor:
    """Join the tensors, along an axis that they have or a new one."""
    if not sequence:
        raise call.refused("the list is empty")
    is_new = call.integer("new_axis", 0)
    rank = max(each.ndim for each in sequence)
    axis = axis_of(call.integer("axis"), rank + 1 if is_new else rank)
    joined = torch.stack if is_new else torch.cat
    return moved(joined([movable(each) for each in sequence], axis), sequence[0].dtype)


@operator("SplitToSequence", numbers=(1,))
def split_to_sequence(call: Call, data: torch.Tensor, split: Value = None) -> Sequence:
    """List the parts of an axis: of one size, of given ones, or its slices."""
    axis = axis_of(call.integer("axis", 0), data.ndim)
    if split is None and not call.integer("keepdims", 1):
        return list(data.unbind(axis))
    sizes = [1] if split is None else integers_of(split)
    if split is None or not _is_list(split):
        size, (each,) = data.shape[axis], sizes
        if not isinstance(size, int):
            raise call.refused("it splits an axis of dynamic size", "give that axis a fixed size")
        sizes = [min(each, size - start) for start in range(0, size, each)]
    return list(parted(data, sizes, axis))


def _is_list(value: Value) -> bool:
    return bool(value.array.shape if isinstance(value, Numbers) else value.shape)


@operator("Optional")
def optional(_: Call, value: Value = None) -> Value:
    """Return the input, or nothing."""
    return value


@operator("OptionalHasElement", numbers=(0,))
def optional_has_element(_: Call, value: Value = None) -> Numbers:
    """Whether there is something."""
    return number(value is not None, torch.bool)


@operator("OptionalGetElement")
def optional_get_element(call: Call, value: Value) -> Value:
    """Return what there is."""
    if value is None:
        raise call.refused("there is nothing to get")
    return value
