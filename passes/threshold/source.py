"""The numbers of one weight, read a block at a time from where they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.rewrite.layers import Axes, Role
from graphopt.rewrite.weights import Weight
from passes.threshold.spread import Array, Indices, Spread, Where

__all__ = ["BLOCK", "Array", "Indices", "Source", "Where", "contiguous"]

BLOCK = 1 << 16
"""Elements that are worked on at a time: what fits a core's own cache."""


class Source:
    """One weight as real numbers of float32 (float64 where it is stored so).

    Args:
        weight: What to read. The tensor it holds now is read, whatever replaces it later.

    Attributes:
        at: The address of the weight.
        shape: Its shape.
        axes: How the first layer that reads it does.
        real_dtype: The type that magnitudes are computed in.
        verified: Whether all elements were seen and none was NaN or infinite.
    """

    def __init__(self, weight: Weight) -> None:
        self.at = weight.at
        self.tensor = weight.tensor
        self.shape = tuple(int(size) for size in self.tensor.shape.numpy())
        self.axes = weight.uses[0].axes
        if weight.role not in (Role.WEIGHT, Role.EMBEDDING):
            # Neither channels nor sums: a vector is one row.
            self.axes = Axes(reduction=tuple(range(len(self.shape))))
        self.real_dtype = np.dtype(
            np.float64 if self.tensor.dtype == ir.DataType.DOUBLE else np.float32
        )
        self.verified = False
        self._scale: Spread | None = None
        self._zero: Spread | None = None
        if weight.quantization is not None:
            scale, zero = weight.quantization.scale, weight.quantization.zero_point
            self._scale = Spread.of(
                scale.numpy().astype(np.float32), weight.quantization, self.shape
            )
            if zero is not None:
                self._zero = Spread.of(
                    zero.numpy().astype(self.tensor.dtype.numpy()), weight.quantization, self.shape
                )

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def stored(self) -> Array:
        """Return the stored array, memory-mapped where the tensor is."""
        return self.tensor.numpy()

    def real(self, stored: Array, where: Where) -> Array:
        """Return the real numbers of a block, of `real_dtype`; maybe a view of `stored`."""
        zero = None if self._zero is None else self._zero.within(where)
        scale = None if self._scale is None else self._scale.within(where)
        return self._dequantized(stored[where], zero, scale)

    def magnitudes(self, stored: Array, where: Where, room: Array | None = None) -> Array:
        """Return the absolute values of a block, of `real_dtype`.

        Args:
            stored: What `stored` returned.
            where: Which block of it.
            room: Where to put them, from `room`; they stay until it is used again.

        Raises:
            GraphoptError: A value is NaN or infinite.
        """
        real = self.real(stored, where)
        out = None if room is None else room[: real.size].reshape(real.shape)
        magnitudes = np.asarray(np.abs(real, out=out))
        # The maximum of anything with NaN is NaN.
        if not self.verified and magnitudes.size and not math.isfinite(magnitudes.max()):
            raise GraphoptError(
                f"weight {self.at!r} holds NaN or infinity",
                fix=f"repair the model, or keep the weight out: exclude={self.at!r}",
            )
        return magnitudes

    def room(self) -> Array:
        """Make room for the numbers of one block of `contiguous`.

        A loop that asks for memory at every step has the kernel clear it every time, which costs
        as much as the arithmetic.
        """
        return np.empty(min(BLOCK, self.size), self.real_dtype)

    def verify(self) -> None:
        """Read all elements once.

        Raises:
            GraphoptError: A value is NaN or infinite.
        """
        if self.verified:
            return
        stored, room = self.stored(), self.room()
        for where in contiguous(self.shape):
            self.magnitudes(stored, where, room)
        self.verified = True

    def _dequantized(self, stored: Array, zero: Array | None, scale: Array | None) -> Array:
        if scale is None:
            return np.asarray(stored, self.real_dtype)
        real = stored.astype(np.float32)
        if zero is not None:
            real -= zero.astype(np.float32)
        real *= scale
        return real

    def zeroed(self, stored: Array, where: Where, keep: Array) -> Array:
        """Return a block whose elements are kept where told, and real zero (+0) elsewhere."""
        block = np.ascontiguousarray(stored[where])
        bits = block.view(np.dtype(f"u{block.itemsize}"))
        if self._zero is None:
            # A product of bits: several times as fast as a choice by mask, and never -0.
            return np.asarray(np.multiply(bits, keep, dtype=bits.dtype)).view(block.dtype)
        zero = np.ascontiguousarray(self._zero.within(where)).view(bits.dtype)
        flipped = np.asarray(np.multiply(bits ^ zero, keep, dtype=bits.dtype))
        return np.asarray(np.bitwise_xor(flipped, zero)).view(block.dtype)

    def sample(self, count: int) -> tuple[Array, Indices]:
        """Pick about `count` elements, in short runs at seeded random places.

        Returns:
            Their magnitudes, not checked for NaN, and their indices, one array per axis.
        """
        run = min(16, self.size)
        generator = np.random.default_rng(self.size)
        starts = generator.integers(0, self.size - run + 1, size=-(-count // run))
        flat = (starts[:, None] + np.arange(run)).reshape(-1)
        indices = np.unravel_index(flat, self.shape)
        zero = None if self._zero is None else self._zero.picked(indices)
        scale = None if self._scale is None else self._scale.picked(indices)
        return np.abs(self._dequantized(self.stored()[indices], zero, scale)), indices


def contiguous(shape: tuple[int, ...], limit: int = BLOCK) -> Iterator[Where]:
    """Cut a tensor into runs of at most `limit` elements, in the order of its elements."""
    axis, inner = len(shape), 1
    while axis > 0 and inner * shape[axis - 1] <= limit:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield tuple(slice(0, size) for size in shape)
        return
    step = max(1, limit // inner)
    trailing = tuple(slice(0, size) for size in shape[axis:])
    for index in np.ndindex(*shape[: axis - 1]):
        leading = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[axis - 1], step):
            yield (*leading, slice(start, min(start + step, shape[axis - 1])), *trailing)
