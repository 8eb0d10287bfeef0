"""What becomes zero as one: elements of a weight, or blocks of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from passes.threshold.layout import Layout
from passes.threshold.scores import Scored
from passes.threshold.selection import Cut, Part
from passes.threshold.source import Array, Where, contiguous


class Units(Part, Protocol):
    """Scores that are selected from, and the way back to a mask.

    Attributes:
        scored: The weight and the scores of its elements.
    """

    scored: Scored

    def masks(self, cut: Cut) -> Iterator[tuple[Where, Array]]:
        """Yield blocks of the weight and which of their elements stay."""


@dataclass(frozen=True)
class Elements(Units):
    """Every element for itself, in the order in which they are stored."""

    scored: Scored

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.scored.source.size

    @property
    def square_sum(self) -> float | None:
        """The sum of the squares of all scores, where it is known."""
        return self.scored.square_sum

    def stream(self) -> Iterator[Array]:
        """Yield all scores in order, one-dimensional; each array until the next is asked for."""
        stored, room = self.scored.source.stored(), self.scored.source.room()
        for where in contiguous(self.scored.source.shape):
            yield self.scored.scores(stored, where, room).reshape(-1)

    def sample(self, count: int) -> Array:
        """Return about `count` scores at random places."""
        return self.scored.sample(count)

    def masks(self, cut: Cut) -> Iterator[tuple[Where, Array]]:
        """Yield blocks of the weight and which of their elements stay."""
        stored, room = self.scored.source.stored(), self.scored.source.room()
        ties = _Ties(cut)
        for where in contiguous(self.scored.source.shape):
            yield where, ties.keep(self.scored.scores(stored, where, room))


class _Ties:
    """Applies a cut to scores that come in order."""

    def __init__(self, cut: Cut) -> None:
        self._threshold = cut.threshold
        self._left = cut.ties

    def keep(self, scores: Array) -> Array:
        keep: Array = scores >= self._threshold
        if self._left:
            equal = np.flatnonzero(scores == self._threshold)[: self._left]
            self._left -= equal.size
            keep.reshape(-1)[equal] = False
        return keep


@dataclass(frozen=True)
class Blocks(Units):
    """Blocks of `rows` output channels by `columns` elements of what is summed over.

    The score of a block is the root mean square of its elements' scores; blocks at the edges hold
    what is left.
    """

    scored: Scored
    rows: int
    columns: int

    def _layout(self) -> Layout:
        return Layout.channels(self.scored.source)

    @property
    def size(self) -> int:
        """The number of blocks."""
        batch, output, fan_in = self._layout().sizes
        return batch * -(-output // self.rows) * -(-fan_in // self.columns)

    @property
    def square_sum(self) -> float | None:
        """Not known: blocks at the edges hold fewer elements."""
        return None

    def _scores(self) -> Iterator[tuple[Where, Array, Array]]:
        layout = self._layout()
        stored = self.scored.source.stored()
        for where in layout.slabs(self.rows):
            view = layout.arranged(self.scored.scores(stored, where))
            sums = np.square(view, dtype=np.float64)
            for axis, step in ((1, self.rows), (2, self.columns)):
                sums = np.add.reduceat(sums, np.arange(0, view.shape[axis], step), axis=axis)
            heights = _lengths(view.shape[1], self.rows)[:, None]
            means = sums / (heights * _lengths(view.shape[2], self.columns))
            yield where, np.sqrt(means).astype(view.dtype), view

    def stream(self) -> Iterator[Array]:
        """Yield all scores in order, one-dimensional; each array until the next is asked for."""
        for _, scores, _ in self._scores():
            yield scores.reshape(-1)

    def sample(self, count: int) -> Array:
        """Return about `count` scores, evenly spread: they must all be computed anyway."""
        scores = np.concatenate([scores.copy() for scores in self.stream()])
        return scores[:: max(1, scores.size // count)]

    def masks(self, cut: Cut) -> Iterator[tuple[Where, Array]]:
        """Yield blocks of the weight and which of their elements stay."""
        layout = self._layout()
        ties = _Ties(cut)
        for where, scores, view in self._scores():
            keep = np.repeat(ties.keep(scores), self.rows, axis=1)[:, : view.shape[1]]
            keep = np.repeat(keep, self.columns, axis=2)[:, :, : view.shape[2]]
            yield where, layout.restored(keep, where)


def _lengths(size: int, step: int) -> Array:
    lengths = np.full(-(-size // step), step)
    lengths[-1] = size - step * math.floor((size - 1) / step)
    return lengths
