"""A weight as rows of what its layer sums over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from passes.threshold.source import Array, Source, Where

_SLAB = 1 << 20
"""Elements of a slab, at most (but at least one row)."""


@dataclass(frozen=True)
class Layout:
    """A weight arranged as (batch, output channels, elements that are summed over).

    Args:
        shape: The shape of the weight.
        batch: The axes that are neither.
        output: The axis of output channels, or None.
        summed: The axes of the last axis, the outer one first.
    """

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    output: int | None
    summed: tuple[int, ...]

    @classmethod
    def channels(cls, source: Source) -> Layout:
        """Rows of all elements that one output channel sums over, the input channel outermost."""
        axes = source.axes
        first = () if axes.input is None else (axes.input,)
        summed = (*first, *(axis for axis in axes.reduction if axis != axes.input))
        return cls._of(source, summed)

    @classmethod
    def inputs(cls, source: Source) -> Layout:
        """Rows along the input channels alone: a kernel's places are rows of their own."""
        axes = source.axes
        summed = axes.reduction if axes.input is None else (axes.input,)
        return cls._of(source, summed)

    @classmethod
    def _of(cls, source: Source, summed: tuple[int, ...]) -> Layout:
        output = source.axes.output
        rest = (axis for axis in range(len(source.shape)) if axis not in (*summed, output))
        return cls(source.shape, tuple(rest), output, summed)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The arranged shape of the whole weight."""
        return self._arranged_shape(self.shape)

    def _arranged_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        output = 1 if self.output is None else shape[self.output]
        return (
            math.prod(shape[axis] for axis in self.batch),
            output,
            math.prod(shape[axis] for axis in self.summed),
        )

    @property
    def _order(self) -> tuple[int, ...]:
        output = () if self.output is None else (self.output,)
        return (*self.batch, *output, *self.summed)

    def slabs(self, multiple: int = 1) -> Iterator[Where]:
        """Cut the weight between output channels, in runs of a multiple of some."""
        whole = tuple(slice(0, size) for size in self.shape)
        if self.output is None:
            yield whole
            return
        size = self.shape[self.output]
        row = max(1, math.prod(self.shape) // max(1, size))
        step = max(1, _SLAB // row // multiple) * multiple
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            yield (*whole[: self.output], part, *whole[self.output + 1 :])

    def arranged(self, block: Array) -> Array:
        """Return a slab as (batch, output channels, summed)."""
        return block.transpose(self._order).reshape(self._arranged_shape(block.shape))

    def restored(self, arranged: Array, where: Where) -> Array:
        """Undo `arranged` for the slab at `where`."""
        shape = [part.stop - part.start for part in where]
        moved = arranged.reshape([shape[axis] for axis in self._order])
        return moved.transpose(np.argsort(self._order))
