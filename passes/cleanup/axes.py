"""Axes, permutations and index ranges of the operators that move data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice

import numpy as np
import onnx_ir as ir

from passes.cleanup.merges import Operand
from passes.cleanup.sites import Site, ints_setting

_AXES_INPUT_SINCE = 13
"""From this opset on, Squeeze and Unsqueeze read their axes from an input."""


def absolute(axes: Iterable[int] | None, rank: int | None) -> tuple[int, ...] | None:
    """Count axes from the front; None where one counts from the back and the rank is unknown.

    Duplicates and axes beyond the rank give None, too.
    """
    if axes is None:
        return None
    given = tuple(axes)
    if rank is None:
        known = all(axis >= 0 for axis in given)
        return given if known and len(set(given)) == len(given) else None
    counted = tuple(axis + rank if axis < 0 else axis for axis in given)
    fits = all(0 <= axis < rank for axis in counted) and len(set(counted)) == len(counted)
    return counted if fits else None


def axes_of(node: ir.Node, rank: int | None) -> tuple[int, ...] | None:
    """Return the axes of Squeeze, Unsqueeze or a reduction, counted from the front.

    Args:
        node: The node.
        rank: Of the tensor that the axes are of: of the output for Unsqueeze.
    """
    return absolute(ints_setting(node, "axes", 1), rank)


def lifted(axes: Iterable[int], missing: Iterable[int]) -> tuple[int, ...]:
    """Say where axes are, in a tensor that has other axes besides.

    Args:
        axes: Axes of the smaller tensor.
        missing: Axes of the larger tensor that the smaller one has not.
    """
    gone = set(missing)
    wanted = tuple(axes)
    places = list(
        islice((axis for axis in count() if axis not in gone), max(wanted, default=-1) + 1)
    )
    return tuple(places[axis] for axis in wanted)


def with_axes(
    data: ir.Value, axes: Sequence[int], site: Site
) -> tuple[list[Operand], list[ir.Attr]]:
    """Return the inputs and attributes that tell Squeeze or Unsqueeze its axes."""
    if site.opset < _AXES_INPUT_SINCE:
        return [data], [ir.AttrInt64s("axes", list(axes))]
    return [data, int64s(axes)], []


def int64s(numbers: Iterable[int]) -> ir.TensorProtocol:
    """Make a constant of integers."""
    return ir.Tensor(np.array(list(numbers), np.int64))
