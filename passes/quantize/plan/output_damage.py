"""The damage to one output of a model: noise, lost winners, a lost order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.runtime.difference import Difference, Doubles, as_tensors
from graphopt.runtime.feeds import Array, Batch

_SILENCE = 1e-3
"""An output that is 0 throughout has no signal: what stays below this has no noise either."""

_SHARES_ROUNDING = 1e-2
"""What sums of half-precision shares may miss 1 by."""

_FEWEST = 8
"""Samples below which an order says nothing."""


class OutputDamage:
    """The damage to one output, over all batches."""

    def __init__(self, scores: bool) -> None:
        self._scores = scores
        self._difference = Difference()
        self._broken = False
        self._equal = 0
        self._counted = 0
        self._singles: tuple[list[Array], list[Array]] | None = ([], [])

    def add(self, expected: object, actual: object) -> None:
        """Add what both models return for one batch."""
        want, have = as_tensors(expected), as_tensors(actual)
        self._add_singles(want, have)
        if len(want) != len(have):
            self._broken = True
            return
        for a, b in zip(want, have, strict=True):
            self._add(a, b)

    def _add(self, a: Array, b: Array) -> None:
        if a.dtype != b.dtype or a.ndim != b.ndim:
            self._broken = True
        elif _is_float(a):
            if a.shape != b.shape:
                self._broken = True
                return
            self._difference.add(a, b)
        elif a.shape != b.shape:
            # What depends on the data, such as the boxes that are left: nothing of it is equal.
            self._counted += max(a.size, b.size, 1)
        else:
            self._equal += int(np.count_nonzero(a == b))
            self._counted += a.size

    def _add_singles(self, want: Sequence[Array], have: Sequence[Array]) -> None:
        """Keep what is one number a sample; an output that once is more is not."""
        if self._singles is None:
            return
        if all(len(some) == 1 and _one_a_sample(some[0]) for some in (want, have)):
            for kept, (array,) in zip(self._singles, (want, have), strict=True):
                kept.append(array.reshape(-1).astype(np.float64))
        else:
            self._singles = None

    @property
    def order(self) -> float | None:
        """The rank correlation of an output of one number a sample."""
        if self._singles is None or not self._singles[0]:
            return None
        one, other = (np.concatenate(kept) for kept in self._singles)
        return None if len(one) != len(other) else rank_correlation(one, other)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; -inf where the outputs do not compare."""
        if self._broken or not self._difference.finite:
            return -math.inf
        if self._difference.sqnr_db == -math.inf and self._difference.max_abs <= _SILENCE:
            return math.inf
        return self._difference.sqnr_db

    @property
    def agreement(self) -> float | None:
        """Share of rows of scores with the same winner, or of integers that are equal."""
        if self._counted:
            return self._equal / self._counted
        return self._difference.argmax_agreement if self._scores else None


def are_shares(value: object) -> bool:
    """Whether the last axis holds probabilities, however a model has computed them."""
    if not isinstance(value, np.ndarray) or not _is_float(value):
        return False
    if value.ndim < 2 or value.shape[-1] < 2 or not value.size:
        return False
    sums = value.astype(np.float64).sum(axis=-1)
    return bool(value.min() >= 0 and np.abs(sums - 1).max() <= _SHARES_ROUNDING)


def rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's rho, ties sharing their mean rank; None where one of them is constant, or few."""
    if len(one) < _FEWEST:
        return None
    first, second = _ranks(one), _ranks(other)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None if np.ptp(first) == 0 else 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Array) -> Doubles:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Doubles = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _one_a_sample(array: Array) -> bool:
    return _is_float(array) and array.ndim >= 1 and array.size == array.shape[0]


def meant(samples: Batch, expected: object, actual: object) -> tuple[object, object]:
    """Leave out of two models' outputs what the mask among the inputs calls padding.

    Nobody looks at what stands there, and there is more noise in it than elsewhere.
    """
    if not (isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray)):
        return expected, actual
    for name, mask in samples.items():
        fits = mask.ndim == 2 and expected.shape[:2] == mask.shape == actual.shape[:2]
        if "mask" in name.lower() and mask.dtype.kind in "iub" and fits and expected.ndim > 2:
            kept = mask.astype(bool)
            return (expected[kept], actual[kept]) if kept.any() else (expected, actual)
    return expected, actual


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))
