"""Scales and zero points as the elements of a weight share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.rewrite.weights import Quantization

Array = np.ndarray[Any, np.dtype[Any]]
Where = tuple[slice, ...]
Indices = tuple[np.ndarray[Any, np.dtype[np.intp]], ...]


@dataclass(frozen=True)
class Spread:
    """Numbers of which each holds for several elements of a weight.

    Args:
        values: One axis per axis of the weight, of size 1 where all its elements share a number.
        axis: The axis that is cut into blocks.
        block_size: How many neighbours share a number there; 0: no axis is cut.
    """

    values: Array
    axis: int = 0
    block_size: int = 0

    @classmethod
    def of(cls, values: Array, quantization: Quantization, shape: tuple[int, ...]) -> Spread:
        """Lay the scales or zero points of a weight out."""
        sizes = [1] * len(shape)
        axis, block_size = quantization.axis, quantization.block_size
        if axis is None:
            return cls(values.reshape(sizes))
        if not block_size:
            sizes[axis] = values.size
            return cls(values.reshape(sizes))
        sizes = list(shape)
        sizes[axis] = -(-shape[axis] // block_size)
        return cls(values.reshape(sizes), axis, block_size)

    def within(self, where: Where) -> Array:
        """Return what broadcasts against a part of the weight."""
        if self.block_size:
            part = where[self.axis]
            blocks = np.arange(part.start, part.stop) // self.block_size
            others = (*where[: self.axis], slice(None), *where[self.axis + 1 :])
            return np.take(self.values[others], blocks, axis=self.axis)
        return self.values[within(self.values, where)]

    def picked(self, indices: Indices) -> Array:
        """Return what holds for picked elements."""
        if self.block_size:
            blocks = indices[self.axis] // self.block_size
            indices = (*indices[: self.axis], blocks, *indices[self.axis + 1 :])
        return picked(self.values, indices)


def picked(broadcast: Array, indices: Indices) -> Array:
    """Return the elements of an array that broadcasts against what was picked."""
    return broadcast[
        tuple(
            np.zeros_like(index) if size == 1 else index
            for size, index in zip(broadcast.shape, indices, strict=True)
        )
    ]


def within(broadcast: Array, where: Where) -> Where:
    """Return the part of an array that broadcasts against a block."""
    return tuple(
        slice(None) if size == 1 else part
        for size, part in zip(broadcast.shape, where, strict=True)
    )
