"""Zeroing the smallest scores of each row: N:M patterns, and sparsity per output channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from passes.threshold.layout import Layout
from passes.threshold.scores import Scored
from passes.threshold.source import Array, Where

_NARROW = 16
"""Rows up to so wide are ranked by comparing all pairs."""


def keep_largest(scores: Array, zeroed: int) -> Array:
    """Say which scores stay when the `zeroed` smallest of each row go, of equal ones the first.

    Args:
        scores: Of shape (rows, n).
        zeroed: How many of each row; fewer than 1: none, n or more: all.
    """
    width = scores.shape[1]
    if zeroed <= 0 or zeroed >= width:
        return np.full(scores.shape, zeroed <= 0)
    if width <= _NARROW:
        return np.asarray(_ranks(scores) >= zeroed)
    last = np.partition(scores, zeroed - 1, axis=1)[:, zeroed - 1 : zeroed]
    below, equal = scores < last, scores == last
    ties = zeroed - np.count_nonzero(below, axis=1, keepdims=True)
    first = equal & (np.cumsum(equal, axis=1) <= ties)
    return np.asarray(~(below | first))


def _ranks(scores: Array) -> Array:
    ranks = np.zeros(scores.shape, np.uint8)
    for column in range(scores.shape[1]):
        for other in range(column):
            first_goes = scores[:, other] <= scores[:, column]
            ranks[:, column] += first_goes
            ranks[:, other] += ~first_goes
    return ranks


def keep_pattern(scores: Array, kept: int, of: int) -> Array:
    """Keep the `kept` largest of every `of` neighbours in each row.

    A shorter group at the end of a row is treated as if zeros filled it up: it keeps as many, so
    that the padded row still has the pattern.

    Args:
        scores: Of shape (rows, n).
        kept: N of N:M.
        of: M of N:M.
    """
    rows, width = scores.shape
    whole = width // of * of
    keep = np.empty(scores.shape, np.bool_)
    groups = np.ascontiguousarray(scores[:, :whole]).reshape(-1, of)
    keep[:, :whole] = keep_largest(groups, of - kept).reshape(rows, whole)
    keep[:, whole:] = keep_largest(scores[:, whole:], width - whole - kept)
    return keep


@dataclass(frozen=True)
class Rows:
    """A weight whose rows are decided one by one.

    Args:
        scored: The weight and its scores.
        layout: What its rows are.
        groups: Into how many rows each of them is cut first (ConvTranspose with groups).
        keep: Says which scores of shape (rows, n) stay.
    """

    scored: Scored
    layout: Layout
    groups: int
    keep: Callable[[Array], Array]

    def masks(self) -> Iterator[tuple[Where, Array]]:
        """Yield slabs of the weight and which of their elements stay."""
        stored = self.scored.source.stored()
        for where in self.layout.slabs():
            arranged = self.layout.arranged(self.scored.scores(stored, where))
            rows = arranged.reshape(-1, arranged.shape[2] // self.groups)
            yield where, self.layout.restored(self.keep(rows), where)
