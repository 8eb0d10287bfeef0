"""Where to clip a histogram, so that what is stored is the most like what was seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.statistics import Array
from graphopt.rewrite.grid import Grid, grid_for, limits

_STEPS = 32
"""How many places of an end a search looks at."""

_FINE = 9
"""How many it then looks at around the best of them."""

_CLIPPINGS = 100
"""How many clippings are compared by their divergence."""

_FEWEST = 16
"""How many numbers a level stands for at least, on average, where divergences are compared."""

_SMALLEST = 0.02
"""How far a search for the least error shrinks a range, as a share of it."""


def least_error(
    histogram: Histogram, dtype: ir.DataType, *, symmetric: bool
) -> tuple[float, float]:
    """Return the range whose grid stores a histogram with the least mean squared error.

    Each bin counts as its middle; on what the bin is spread around it the choice hardly depends,
    as it adds the same to all grids whose steps are wider than a bin. Steps finer than a bin
    add step^2 / 12. The search shrinks both ends together, and then each in turn.

    Args:
        histogram: What was seen, not empty.
        dtype: How it is stored.
        symmetric: Whether 0 is stored as the middle of the type.
    """
    bottom, top = min(histogram.low, 0.0), max(histogram.high, 0.0)
    search = _Search(histogram, dtype, symmetric)
    ends = search.shrink((bottom, top), (True, True))
    if symmetric or bottom == 0 or top == 0:
        return ends
    # Each for itself: one of them may hold the outliers.
    for _ in range(2):
        ends = search.shrink((bottom, ends[1]), (True, False))
        ends = search.shrink((ends[0], top), (False, True))
    return ends


class _Search:
    def __init__(self, histogram: Histogram, dtype: ir.DataType, symmetric: bool) -> None:
        self._middles, self._counts = _middles(histogram)
        self._width, self._dtype, self._symmetric = histogram.width, dtype, symmetric

    def shrink(self, ends: tuple[float, float], moving: tuple[bool, bool]) -> tuple[float, float]:
        """Return the ends times the best share, of those that move: first coarse, then fine."""
        step = (1 - _SMALLEST) / _STEPS
        best = self._best(ends, moving, np.linspace(1, _SMALLEST, _STEPS + 1))
        fine = np.linspace(min(1.0, best + step), max(_SMALLEST, best - step), _FINE)
        best = self._best(ends, moving, fine)
        low, high = (end * best if moves else end for end, moves in zip(ends, moving, strict=True))
        return low, high

    def _best(self, ends: tuple[float, float], moving: tuple[bool, bool], shares: Array) -> float:
        low, high = (
            end * (shares if moves else np.ones_like(shares))
            for end, moves in zip(ends, moving, strict=True)
        )
        grid = grid_for(low, high, self._dtype, symmetric=self._symmetric, axis=0)
        return float(shares[np.argmin(self._errors(grid))])

    def _errors(self, grid: Grid) -> Array:
        """Squared errors, one for each scale of a grid."""
        middles = np.broadcast_to(self._middles, (grid.scale.size, self._middles.size))
        apart = np.square(grid.nearest(middles) - middles)
        fine = grid.dtype.is_integer() & (grid.scale < self._width)
        if fine.any():
            least, largest = limits(grid.dtype)
            zero = 0 if grid.zero_point is None else grid.zero_point
            low, high = (least - zero) * grid.scale, (largest - zero) * grid.scale
            inside = (middles >= low[:, None]) & (middles <= high[:, None]) & fine[:, None]
            apart[inside] = np.broadcast_to(np.square(grid.scale)[:, None] / 12, apart.shape)[
                inside
            ]
        errors: Array = apart @ self._counts
        return errors


def _middles(histogram: Histogram) -> tuple[Array, Array]:
    """Return the middle of each bin that holds something, and its count."""
    first, counts = histogram.occupied()
    bins = np.arange(first, first + counts.size)
    middles = (bins + 0.5 * np.sign(bins)) * histogram.width
    if histogram.low >= 0 or histogram.high <= 0:
        # Of bin 0 only one side can be occupied.
        middles[bins == 0] = 0.0
    held = counts > 0
    return middles[held], counts[held].astype(np.float64)


def least_divergence(
    histogram: Histogram, dtype: ir.DataType, *, symmetric: bool
) -> tuple[float, float]:
    """Return the clipping after which a histogram says the most of what was seen.

    For a candidate range, P is the histogram inside of it, with what lies beyond added to the last
    bins; Q is the histogram inside, merged into as many runs of bins as the type has levels, each
    run spread evenly over its bins that hold something. Chosen is the range with the smallest
    Kullback-Leibler divergence sum P log(P / Q).

    Of few numbers nothing is clipped: bins that hold one each are alike in P and Q, whatever the
    range, and chance would choose.

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017. There of magnitudes; for asymmetric
    grids here of both ends, moved in turn.

    Args:
        histogram: What was seen, not empty.
        dtype: How it is stored: how many levels there are.
        symmetric: Whether 0 is stored as the middle of the type.
    """
    bottom, top = min(histogram.low, 0.0), max(histogram.high, 0.0)
    least, largest = limits(dtype)
    levels = int(largest - least) + 1 if dtype.is_integer() else 1 << dtype.bitwidth
    first, counts = histogram.occupied()
    if symmetric:
        counts, first, levels = histogram.magnitudes(), 0, levels // 2
    if counts.size < levels:
        return bottom, top
    known = counts.astype(np.float64)
    # Whether a number is exactly 0 costs no level: bin 0 is left out, or it outweighs all others.
    known[-first] = 0.0
    if known.sum() < _FEWEST * levels:
        return bottom, top
    start, stop = _Divergence(known, levels).least(-first)
    width = histogram.width
    if symmetric:
        return -stop * width, stop * width
    return (first + start) * width, (first + stop) * width


class _Divergence:
    """Divergences after clipping, from running sums: each costs as much as there are levels."""

    def __init__(self, counts: Array, levels: int) -> None:
        self._counts, self._levels = counts, levels
        self._sums = np.concatenate([[0.0], np.cumsum(counts)])
        self._held = np.concatenate([[0.0], np.cumsum(counts > 0)])
        self._logs = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])

    def least(self, zero: int) -> tuple[int, int]:
        """Return the run of bins (start, stop) around bin 0, each end moved in turn."""
        size = self._counts.size
        start, stop = 0, size
        for _ in range(2 if zero and zero + 1 < size else 1):
            before = start
            stops = _places(max(zero + 1, start + self._levels), size)
            stop = int(stops[np.argmin(self.of(np.full_like(stops, start), stops))])
            starts = zero - _places(max(0, zero - stop + self._levels), zero)
            starts = starts[stop - starts >= self._levels]
            if starts.size:
                start = int(starts[np.argmin(self.of(starts, np.full_like(starts, stop)))])
            if start == before:
                break
        return start, stop

    def of(self, starts: Array, stops: Array) -> Array:
        """Return sum P log(P / Q) for runs of bins, of shape (K,)."""
        total = self._sums[-1]
        if not total:
            return np.zeros(starts.size)
        # Run i begins at start + i * (stop - start) / levels, rounded up.
        edges = np.arange(self._levels + 1) * (stops - starts)[:, None] + (self._levels - 1)
        edges //= self._levels
        edges += starts[:, None]
        inside, held = np.diff(self._sums.take(edges)), np.diff(self._held.take(edges))
        kept = inside.sum(axis=1)
        reference, entropy = inside.copy(), self._logs[stops] - self._logs[starts]
        for end, level, beyond in (
            (starts, 0, self._sums[starts]),
            (stops - 1, -1, total - self._sums[stops]),
        ):
            # What lies beyond is added to the last bin, which may have been empty.
            last = self._counts[end]
            entropy += _x_log_x(last + beyond) - _x_log_x(last)
            reference[:, level] += beyond
            held[:, level] += (last == 0) & (beyond > 0)
        # What only outliers fill is stored as nothing; but log 0 would forbid all clipping.
        stored = np.maximum(held, 1, out=held)
        np.divide(inside, held, out=stored)
        stored /= np.maximum(kept, 1)[:, None]
        np.maximum(stored, 1e-4 / total, out=stored)
        reference *= np.log(stored, out=stored)
        cross = reference.sum(axis=1)
        found: Array = np.where(kept > 0, (entropy - cross) / total - np.log(total), np.inf)
        return found


def _x_log_x(numbers: Array) -> Array:
    return numbers * np.log(np.maximum(numbers, 1.0))


def _places(least: int, most: int) -> Array:
    """Places of an end, the farthest first: of equally good ones that is taken."""
    if least > most:
        return np.zeros(0, np.int64)
    return np.linspace(most, least, _CLIPPINGS).round().astype(np.int64)
