"""A histogram of fixed size whose range grows, and whose counts do not depend on how it grew."""

from __future__ import annotations

import math
import threading
from typing import Any, ClassVar, Self

import numpy as np

from graphopt.calibration.sentinels import BLOCK, blocks
from graphopt.calibration.statistics import Array, State

_FINEST = -126
"""The exponent of the finest width: below it float32 has no normal numbers."""


class Histogram:
    """Counts of numbers in bins of width 2^e around zero.

    Bin k > 0 is [k, k + 1) * 2^e, bin -k its mirror image, and bin 0 is (-1, 1) * 2^e, twice as
    wide. The exponent e is the smallest one for which the extent of all numbers seen and of 0 spans
    at most `bins` bins. When it grows by one, bins 2k and 2k + 1 become bin k exactly; and as it
    depends on the extent alone, so do the counts: they are the same however the data is split
    into batches, and in whatever order parts are merged.

    Args:
        bins: The most bins from the smallest to the largest number, bin 0 included.

    Attributes:
        low: The smallest number; inf before any was seen.
        high: The largest number; -inf before any was seen.
        masked: How many sentinels were seen.
        exponent: The e of the width.
    """

    needs_shape: ClassVar[bool] = False

    def __init__(self, bins: int = 2048) -> None:
        if bins < 2:
            raise ValueError(f"{bins} bins are too few")
        self.bins = bins
        self.low, self.high, self.masked = math.inf, -math.inf, 0
        self.exponent = _FINEST
        # Bin k is at bins - 1 + k.
        self._counts = np.zeros(2 * bins - 1, np.int64)

    def __repr__(self) -> str:
        return f"Histogram({self.bins})"

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """How many numbers were seen, sentinels not counted."""
        return int(self._counts.sum())

    def occupied(self) -> tuple[int, Array]:
        """Return the first bin k, and the counts from there to the last: of what was seen and 0."""
        first, last = self._bin(min(self.low, 0.0)), self._bin(max(self.high, 0.0))
        start = self.bins - 1 + first
        return first, self._counts[start : start + last - first + 1]

    def magnitudes(self) -> Array:
        """Return counts of magnitudes: of bin 0, then of each bin with its mirror image."""
        first, counts = self.occupied()
        zero = -first
        found = np.zeros(max(zero, counts.size - 1 - zero) + 1, counts.dtype)
        found[: counts.size - zero] += counts[zero:]
        found[1 : zero + 1] += counts[:zero][::-1]
        return found

    def update(self, batch: Array) -> None:
        """See one more batch."""
        for block, low, high, masked in blocks(batch):
            self.masked += masked
            if not block.size:
                continue
            self._include(low, high)
            # A view: what is added to it is counted.
            first, counts = self.occupied()
            counts += _ROOMS[block.dtype].count(block, self.exponent, first, counts.size)

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It has another number of bins.
        """
        if other.bins != self.bins:
            raise ValueError(f"{other.bins} bins do not merge into {self.bins}")
        self.masked += other.masked
        if other.low > other.high:
            return
        self._include(other.low, other.high)
        self._counts += _coarser(other._counts, self.exponent - other.exponent)

    def _include(self, low: float, high: float) -> None:
        if self.low <= low and high <= self.high:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent = max(self.exponent, self._guess())
        bottom, top = min(self.low, 0.0), max(self.high, 0.0)
        while _bin(top, exponent) - _bin(bottom, exponent) >= self.bins:
            exponent += 1
        if exponent > self.exponent:
            self._counts = _coarser(self._counts, exponent - self.exponent)
            self.exponent = exponent

    def _guess(self) -> int:
        """An exponent that is not above the one wanted, and not far below it."""
        magnitude = max(self.high, -self.low)
        if magnitude == 0:
            return _FINEST
        _, exponent = math.frexp(magnitude)
        return exponent - self.bins.bit_length() - 2

    def _bin(self, number: float) -> int:
        return _bin(number, self.exponent)

    def state(self) -> State:
        """Return all that was seen."""
        first, counts = self.occupied()
        return {
            "extent": np.array([self.low, self.high]),
            "integers": np.array([self.masked, self.exponent, first]),
            "counts": counts.copy(),
        }

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.low, self.high = (float(end) for end in state["extent"])
        self.masked, self.exponent, first = (int(number) for number in state["integers"])
        self._counts = np.zeros_like(self._counts)
        counts = state["counts"]
        start = self.bins - 1 + first
        if start < 0 or start + counts.size > self._counts.size:
            raise ValueError("counts outside of the bins")
        self._counts[start : start + counts.size] = counts


class _Room(threading.local):
    """Arrays that counting blocks needs, used again for each of them: new ones cost page faults.

    Args:
        dtype: Of the blocks: float32 or float64.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._scaled = np.empty(BLOCK, dtype)
        self._bins = np.empty(BLOCK, np.int32)
        self._index = np.empty(BLOCK, np.intp)
        self._offsets = np.empty(BLOCK, np.int32)
        self._laid_out = (0, 0, 0)

    def count(self, block: Array, exponent: int, first: int, size: int) -> Array:
        """Count the numbers of a block in `size` bins from bin `first` on."""
        many = block.size
        scaled, bins, index = self._scaled[:many], self._bins[:many], self._index[:many]
        offsets = self._offsets[:many]
        if self._laid_out[:2] != (first, size) or self._laid_out[2] < many:
            # Neighbours count in two tables: often they are both 0, and counting twice in one
            # place waits for the first count to be written.
            offsets[::2], offsets[1::2] = -first, size - first
            self._laid_out = first, size, many
        # Powers of two scale exactly; what underflows to zero belongs to bin 0.
        np.multiply(block, block.dtype.type(math.ldexp(1.0, -exponent)), out=scaled)
        # The conversion drops what is behind the point.
        np.copyto(bins, scaled, casting="unsafe")
        np.add(bins, offsets, out=bins)
        np.copyto(index, bins)
        counts: Array = np.bincount(index, minlength=2 * size)
        return counts[:size] + counts[size:]


_ROOMS = {np.dtype(kind): _Room(np.dtype(kind)) for kind in (np.float32, np.float64)}


def _bin(number: float, exponent: int) -> int:
    return math.trunc(math.ldexp(number, -exponent))


def _coarser(counts: Array, doublings: int) -> Array:
    """Return counts in bins 2^doublings times as wide; the middle one is bin 0."""
    if doublings == 0:
        return counts
    half = counts.size // 2
    wide = np.zeros_like(counts)
    bins = np.arange(-half, half + 1)
    merged = np.sign(bins) * (np.abs(bins) >> min(doublings, 62))
    np.add.at(wide, merged + half, counts)
    return wide
