"""Which numbers of a weight share a scale, and the grid that they are put on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite.grid import Grid, extent, grid_for
from graphopt.rewrite.layers import Axes, Role
from graphopt.rewrite.weights import Weight

Granularity = Literal["tensor", "channel", "block"]

GRID = "graphopt.grid"
"""Under this key of a value's `meta`, a pass leaves the grid that its weight lies on."""


@dataclass(frozen=True)
class Sharing:
    """Which numbers share a scale, in the words of `Grid`.

    Args:
        axis: The axis that scales follow; None: one scale for all.
        block_size: Neighbours along `axis` that share one; 0: all of an index of `axis`.
    """

    axis: int | None = None
    block_size: int = 0

    def count(self, shape: tuple[int, ...]) -> int:
        """Return how many scales a weight of a shape has."""
        if self.axis is None:
            return 1
        if not self.block_size:
            return shape[self.axis]
        return int(np.prod(shape)) // shape[self.axis] * -(-shape[self.axis] // self.block_size)


def sharing(weight: Weight, granularity: Granularity, block_size: int) -> Sharing:
    """Say which numbers of a weight share a scale.

    - "tensor": all.
    - "channel": those of an output channel; of a weight with further axes (the directions of an
      LSTM, stacked matrices), those that one sum runs over.
    - "block": `block_size` neighbours along the input channels; where there are not more of them
      than that, as "channel".

    A table whose rows a Gather picks has one scale per row, unless it has one for all.
    """
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    axes = _axes(weight)
    if granularity == "tensor":
        return Sharing()
    if is_table(weight):
        return Sharing(axes.output)
    if granularity == "block" and axes.input is not None and shape[axes.input] > block_size:
        return Sharing(axes.input, block_size)
    others = [
        axis
        for axis, size in enumerate(shape)
        if size > 1 and axis != axes.output and axis not in axes.reduction
    ]
    if others and len(axes.reduction) == 1:
        (summed,) = axes.reduction
        return Sharing(summed, shape[summed])
    return Sharing(axes.output)


def is_table(weight: Weight) -> bool:
    """Whether a Gather picks rows of a weight."""
    return any(use.role is Role.EMBEDDING for use in weight.uses)


def _axes(weight: Weight) -> Axes:
    tables = [use.axes for use in weight.uses if use.role is Role.EMBEDDING]
    return tables[0] if tables else weight.uses[0].axes


def grid_of(weight: Weight, shared: Sharing, dtype: ir.DataType, *, symmetric: bool) -> Grid:
    """Return the grid of a weight: one that a pass has put it on, or the one of its range.

    Scales are float32 (float64 for doubles): those of float16 would be too coarse for small
    weights.

    Raises:
        ValueError: The weight holds NaN or infinity.
    """
    real = weight.tensor.numpy()
    kept = weight.value.meta.get(GRID)
    if (
        isinstance(kept, Grid)
        and (kept.dtype, kept.axis, kept.block_size) == (dtype, shared.axis, shared.block_size)
        and kept.holds(real)
    ):
        return kept
    double = weight.tensor.dtype == ir.DataType.DOUBLE
    scale_dtype = ir.DataType.DOUBLE if double else ir.DataType.FLOAT
    return grid_of_range(real, shared, dtype, symmetric=symmetric, scale_dtype=scale_dtype)


def grid_of_range(
    real: npt.NDArray[Any],
    shared: Sharing,
    dtype: ir.DataType,
    *,
    symmetric: bool,
    scale_dtype: ir.DataType,
) -> Grid:
    """Return the grid that reaches from the smallest to the largest of what shares a scale.

    Raises:
        ValueError: The numbers hold NaN or infinity.
    """
    low, high = extent(real, shared.axis, shared.block_size)
    return grid_for(
        low,
        high,
        dtype,
        symmetric=symmetric,
        axis=shared.axis,
        block_size=shared.block_size,
        scale_dtype=scale_dtype,
    )
