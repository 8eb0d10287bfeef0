"""The k-th smallest score over many weights, exactly, without ever holding all scores.

A random sample of each weight tells about where it will be cut. One pass then counts what lies
below that bracket, sums the squares of what lies above, and keeps what lies within: at most a few
percent. Where the k-th score is among what was kept, it is exact; a weight whose bracket missed is
read again with a wider one. This is Floyd and Rivest's SELECT (CACM 18, 1975) over a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from passes.threshold.source import Array

_WHOLE = 1 << 22
"""Up to so many scores are simply kept, all of them."""
_SAMPLE = 1 << 13
"""At most so many scores of one weight are looked at to place its bracket."""
_LOOK = 1 << 20
"""About so many scores of all weights are looked at to guess the threshold."""


class Part(Protocol):
    """What scores are selected from: one weight, its units in order."""

    @property
    def size(self) -> int:
        """The number of scores."""

    def stream(self) -> Iterator[Array]:
        """Yield all scores in order, one-dimensional."""

    def sample(self, count: int) -> Array:
        """Return about `count` scores at random places."""


@dataclass(frozen=True)
class Cut:
    """Where one weight is cut.

    Args:
        threshold: Scores below it become zero.
        ties: So many of the scores that equal it become zero too, the first in order.
        zeroed: How many become zero in all.
    """

    threshold: float
    ties: int
    zeroed: int


@dataclass(frozen=True)
class _Bracket:
    """What one pass over one weight has seen: counts outside a bracket, the scores inside.

    Args:
        part: The weight.
        below: How many scores lie below.
        above: How many lie above.
        values: The scores inside, sorted.
        counts: How often each of them occurs; None: once, or as often as it stands there.
        finals: What they compare as.
    """

    part: Part
    below: int
    above: int
    values: Array
    counts: Array | None
    finals: Array

    @property
    def inside(self) -> int:
        return self.values.size if self.counts is None else int(self.counts.sum())

    def misses(self, threshold: float) -> bool:
        """Whether the threshold may lie where nothing was kept."""
        if self.values.size == 0:
            return self.below + self.above > 0
        misses_low = self.below > 0 and not threshold >= self.finals[0]
        return misses_low or (self.above > 0 and not threshold <= self.finals[-1])

    def count(self, which: Array) -> int:
        """Count scores inside, given which distinct ones."""
        return int(np.count_nonzero(which) if self.counts is None else self.counts[which].sum())

    def cut(self, zeroed: int) -> Cut:
        """Return the cut that zeroes so many of the smallest scores."""
        if zeroed == self.part.size:
            return Cut(math.inf, 0, zeroed)
        if zeroed == 0:
            return Cut(0.0, 0, 0)
        rank = zeroed - self.below
        reached = self.values.size if self.counts is None else np.cumsum(self.counts)
        index = rank if isinstance(reached, int) else int(np.searchsorted(reached, rank, "right"))
        if index >= self.values.size:
            # The next larger score was not kept; anything above the last one cuts there.
            return Cut(
                float(np.nextafter(self.values[-1], self.values.dtype.type(math.inf))), 0, zeroed
            )
        threshold = self.values[index]
        return Cut(float(threshold), rank - self.count(self.values < threshold), zeroed)


Finish = Callable[[Array, Array | None, float], Array]
"""Turns sorted scores, how often each occurs, and the squares above them into what is compared."""


def plain(values: Array, counts: Array | None, squares_above: float) -> Array:
    """Compare scores as they are."""
    del counts, squares_above
    return values


def tail_shares(values: Array, counts: Array | None, squares_above: float) -> Array:
    """Compare LAMP scores: a square over the sum of all squares that are not smaller.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021
    (arXiv:2010.07611), equation 2. Equal weights share the sum of them all here. The score rises
    with the magnitude, so that it only decides how the weights of one layer stand to another's.
    """
    squares = np.square(values, dtype=np.float64)
    weighted = squares if counts is None else squares * counts
    tails = squares_above + np.cumsum(weighted[::-1])[::-1]
    if counts is None and values.size:
        first = np.searchsorted(values, values, side="left")
        tails = tails[first]
    return np.divide(squares, tails, out=np.zeros_like(squares), where=tails > 0)


def select(parts: Sequence[Part], k: int, finish: Finish = plain) -> list[Cut]:
    """Find the cuts that zero exactly the k smallest scores of all parts together.

    Ties go to zero in order: the earlier weight first, in it the earlier element.

    Args:
        parts: What to select from.
        k: How many to zero, 0 <= k <= the number of all scores.
        finish: Turns the scores of a part into what is compared; must not fall as they rise.

    Returns:
        One cut per part.
    """
    total = sum(part.size for part in parts)
    if k == 0:
        return [Cut(0.0, 0, 0) for _ in parts]
    if k == total:
        return [Cut(math.inf, 0, part.size) for part in parts]
    ranges = _Ranges(parts, k / total, finish)
    brackets = [_read(part, *ranges.of(index), finish) for index, part in enumerate(parts)]
    while True:
        threshold = _threshold(brackets, k)
        missed = [index for index, one in enumerate(brackets) if one.misses(threshold)]
        if not missed:
            return _cuts(brackets, threshold, k)
        for index in missed:
            ranges.widen(index)
            brackets[index] = _read(parts[index], *ranges.of(index), finish)


class _Ranges:
    """Between which scores each part will be cut, guessed from samples."""

    def __init__(self, parts: Sequence[Part], share: float, finish: Finish) -> None:
        self._widths = [1] * len(parts)
        self._samples: list[Array] = []
        total = sum(part.size for part in parts)
        if total <= _WHOLE:
            return
        samples = [np.sort(part.sample(_sample_size(part.size))) for part in parts]
        finals = [
            finish(sample, np.full(sample.size, part.size / max(1, sample.size)), 0.0)
            for sample, part in zip(samples, parts, strict=True)
        ]
        look = max(1, total // _LOOK)
        looked, threshold = _weighted_quantile(finals, [p.size for p in parts], share, look)
        if finish is plain:
            # One threshold for all: one sample for all, and few scores to keep.
            self._samples = [looked] * len(parts)
            self._shares = [share] * len(parts)
        else:
            self._samples = samples
            self._shares = [float(np.mean(final < threshold)) for final in finals]

    def of(self, index: int) -> tuple[float, float]:
        """Bracket the cut of one part, by eight times the standard error of a sampled share."""
        if not self._samples or self._samples[index].size == 0:
            return -math.inf, math.inf
        sample, share = self._samples[index], self._shares[index]
        error = math.sqrt(max(share * (1 - share), 1 / sample.size) / sample.size)
        margin = 4 * self._widths[index] * error
        low, high = share - margin, share + margin
        return (
            -math.inf if low <= 0 else float(sample[int(low * sample.size)]),
            math.inf if high >= 1 else float(sample[int(high * sample.size)]),
        )

    def widen(self, index: int) -> None:
        """Make the bracket of a part four times as wide."""
        self._widths[index] *= 4


def _sample_size(size: int) -> int:
    return min(_SAMPLE, max(256, size // 32))


def _weighted_quantile(
    finals: Sequence[Array], sizes: Sequence[int], share: float, step: int
) -> tuple[Array, float]:
    """Return a thinned sample of all scores, sorted, and its quantile."""
    thinned = [
        final[:: max(1, final.size * step // max(1, size))]
        for final, size in zip(finals, sizes, strict=True)
    ]
    weights = np.concatenate(
        [
            np.full(part.size, size / max(1, part.size))
            for part, size in zip(thinned, sizes, strict=True)
        ]
    )
    scores = np.concatenate(thinned)
    order = np.argsort(scores, kind="stable")
    scores, reached = scores[order], np.cumsum(weights[order])
    index = int(np.searchsorted(reached, share * reached[-1]))
    return scores, float(scores[min(index, scores.size - 1)])


def _read(part: Part, low: float, high: float, finish: Finish) -> _Bracket:
    below = above = 0
    squares = 0.0
    kept: list[Array] = []
    whole = low == -math.inf and high == math.inf
    for scores in part.stream():
        if whole:
            kept.append(scores)
            continue
        under, over = scores < low, scores > high
        below += int(np.count_nonzero(under))
        beyond = int(np.count_nonzero(over))
        if beyond:
            above += beyond
            squares += _sum_of_squares(scores, over) if finish is tail_shares else 0.0
        kept.append(scores[~np.logical_or(under, over, out=under)])
    values, counts = _distinct(np.sort(np.concatenate(kept)) if kept else np.empty(0))
    return _Bracket(part, below, above, values, counts, finish(values, counts, squares))


def _sum_of_squares(scores: Array, which: Array) -> float:
    chosen = np.multiply(scores, which)
    with np.errstate(over="ignore"):
        squares = float(np.dot(chosen, chosen))
    return squares if 1e-30 < squares < math.inf else float(np.sum(np.square(chosen, dtype=float)))


def _distinct(values: Array) -> tuple[Array, Array | None]:
    """Say how often each score occurs, where that is shorter than saying each."""
    if values.size < 2:
        return values, None
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    if 2 * starts.size >= values.size:
        return values, None
    starts = np.concatenate(([0], starts))
    return values[starts], np.diff(starts, append=values.size)


def _threshold(brackets: Sequence[_Bracket], k: int) -> float:
    """Return what the k-th score (from 0) compares as; infinite where it was not kept."""
    rank = k - sum(bracket.below for bracket in brackets)
    if rank < 0:
        return -math.inf
    if rank >= sum(bracket.inside for bracket in brackets):
        return math.inf
    finals = np.concatenate([bracket.finals for bracket in brackets])
    if all(bracket.counts is None for bracket in brackets):
        finals.partition(rank)
        return float(finals[rank])
    counts = np.concatenate(
        [
            np.ones(bracket.values.size, np.int64) if bracket.counts is None else bracket.counts
            for bracket in brackets
        ]
    )
    order = np.argsort(finals, kind="stable")
    index = np.searchsorted(np.cumsum(counts[order]), rank, side="right")
    return float(finals[order[index]])


def _cuts(brackets: Sequence[_Bracket], threshold: float, k: int) -> list[Cut]:
    zeroed = [one.below + one.count(one.finals < threshold) for one in brackets]
    ties = k - sum(zeroed)
    cuts = []
    for bracket, lower in zip(brackets, zeroed, strict=True):
        share = min(ties, bracket.count(bracket.finals == threshold))
        ties -= share
        cuts.append(bracket.cut(lower + share))
    return cuts
