"""The k-th smallest score over many weights, exactly, without ever holding all scores.

A random sample of each weight tells about where it will be cut. One pass then counts what lies
below that bracket, sums the squares of what lies above, and keeps what lies within: at most a few
percent. Where the k-th score is among what was kept, it is exact; a weight whose bracket missed is
read again with a wider one. This is Floyd and Rivest's SELECT (CACM 18, 1975) over a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from passes.threshold.source import Array

_WHOLE = 1 << 22
"""Up to so many scores are simply kept, all of them."""
_SAMPLE = 1 << 12
"""At most so many scores of one weight are looked at to place its bracket."""
_LOOK = 1 << 18
"""About so many scores of all weights are looked at to guess the threshold."""


class Part(Protocol):
    """What scores are selected from: one weight, its units in order."""

    @property
    def size(self) -> int:
        """The number of scores."""

    @property
    def square_sum(self) -> float | None:
        """The sum of the squares of all scores, where it is known."""

    def stream(self) -> Iterator[Array]:
        """Yield all scores in order, one-dimensional.

        An array is the caller's, to write into too, until the next one is asked for.
        """

    def sample(self, count: int) -> Array:
        """Return about `count` scores at random places."""


P = TypeVar("P", bound=Part)


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
        begins = np.concatenate(([True], values[1:] != values[:-1]))
        tails = tails[np.maximum.accumulate(np.where(begins, np.arange(values.size), 0))]
    return np.divide(squares, tails, out=np.zeros_like(squares), where=tails > 0)


def select(parts: Iterable[P], sparsity: float, finish: Finish = plain) -> list[tuple[P, Cut]]:
    """Find the cuts that zero exactly k scores of all n together, the smallest.

    k is `sparsity` times n, rounded to the nearest integer (a half to the even one). Ties go to
    zero in order: the earlier weight first, in it the earlier element.

    Args:
        parts: What to select from. Each is sampled when it comes, while it is in the page cache.
        sparsity: From 0 to 1.
        finish: Turns the scores of a part into what is compared; must not fall as they rise.

    Returns:
        The parts, each with its cut.
    """
    ranges = _Ranges(parts, sparsity, finish)
    return list(zip(ranges.parts, _cuts_of(ranges, sparsity, finish), strict=True))


def _cuts_of(ranges: _Ranges[P], sparsity: float, finish: Finish) -> list[Cut]:
    parts = ranges.parts
    total = sum(part.size for part in parts)
    k = round(sparsity * total)
    if k == 0:
        return [Cut(0.0, 0, 0) for _ in parts]
    if k == total:
        return [Cut(math.inf, 0, part.size) for part in parts]
    brackets = [_read(part, *ranges.of(index), finish) for index, part in enumerate(parts)]
    while True:
        threshold = _threshold(brackets, k)
        missed = [index for index, one in enumerate(brackets) if one.misses(threshold)]
        if not missed:
            return _cuts(brackets, threshold, k)
        for index in missed:
            ranges.widen(index)
            brackets[index] = _read(parts[index], *ranges.of(index), finish)


class _Ranges(Generic[P]):
    """Between which scores each part will be cut, guessed from samples."""

    def __init__(self, parts: Iterable[P], share: float, finish: Finish) -> None:
        self.parts: list[P] = []
        self._share = share
        self._finish = finish
        self._samples: list[Array] = []
        for part in parts:
            self.parts.append(part)
            self._samples.append(np.sort(part.sample(min(_SAMPLE, max(256, part.size // 32)))))
        self._finals: list[Array] = []
        self._widths = [1] * len(self.parts)
        total = sum(part.size for part in self.parts)
        if total <= _WHOLE:
            self._samples = []
            return
        step = max(1, total // _LOOK)
        looked, weights = [], []
        for part, sample in zip(self.parts, self._samples, strict=True):
            self._finals.append(self._compared(sample, part))
            thinned = self._finals[-1][:: max(1, sample.size * step // part.size)]
            looked.append(thinned)
            weights.append(np.full(thinned.size, part.size / thinned.size))
        scores, weight = np.concatenate(looked), np.concatenate(weights)
        order = np.argsort(scores, kind="stable")
        self._looked, self._reached = scores[order], np.cumsum(weight[order])

    def _compared(self, sample: Array, part: Part) -> Array:
        """Return what a sorted sample compares as, each element standing for many."""
        squares = float(np.sum(np.square(sample, dtype=np.float64)))
        stands_for = part.size / sample.size
        if part.square_sum is not None and squares > 0:
            stands_for = part.square_sum / squares
        return self._finish(sample, np.full(sample.size, stands_for), 0.0)

    def of(self, index: int) -> tuple[float, float]:
        """Bracket the cut of one part."""
        if not self._samples:
            return -math.inf, math.inf
        # Eight times the standard error of a share: neighbours in a sample are alike.
        share, size, width = self._share, self._looked.size, self._widths[index]
        margin = 8 * width * math.sqrt(max(share * (1 - share), 1 / size) / size)
        low, high = self._quantile(share - margin), self._quantile(share + margin)
        if self._finish is plain:
            return low, high
        sample, finals = self._samples[index], self._finals[index]
        first = int(np.searchsorted(finals, low, side="left")) - 1
        last = int(np.searchsorted(finals, high, side="right"))
        # How far a sampled tail of squares may be off, as a share of the score.
        apart = width / math.sqrt(sample.size)
        return (
            -math.inf if first < 0 else float(sample[first]) * (1 - apart),
            math.inf if last == sample.size else float(sample[last]) * (1 + apart),
        )

    def _quantile(self, share: float) -> float:
        if not 0 < share < 1:
            return math.copysign(math.inf, share - 0.5)
        index = int(np.searchsorted(self._reached, share * self._reached[-1]))
        return float(self._looked[min(index, self._looked.size - 1)])

    def widen(self, index: int) -> None:
        """Make the bracket of a part four times as wide."""
        self._widths[index] *= 4


def _read(part: Part, low: float, high: float, finish: Finish) -> _Bracket:
    below = above = 0
    squares = 0.0
    kept: list[Array] = []
    whole = low == -math.inf and high == math.inf
    for scores in part.stream():
        if whole:
            kept.append(scores.copy())
            continue
        from_low, over = scores >= low, scores > high
        reached, beyond = int(np.count_nonzero(from_low)), int(np.count_nonzero(over))
        below += scores.size - reached
        above += beyond
        kept.append(scores[np.greater(from_low, over, out=from_low)])
        if beyond and finish is tail_shares:
            squares += _sum_of_squares(np.multiply(scores, over, out=scores))
    values, counts = _distinct(np.sort(np.concatenate(kept)) if kept else np.empty(0))
    return _Bracket(part, below, above, values, counts, finish(values, counts, squares))


def _sum_of_squares(scores: Array) -> float:
    with np.errstate(over="ignore"):
        squares = float(np.dot(scores, scores))
    return squares if 1e-30 < squares < math.inf else float(np.sum(np.square(scores, dtype=float)))


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
