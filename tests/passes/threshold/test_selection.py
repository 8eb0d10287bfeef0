from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from passes.threshold import selection
from passes.threshold.selection import Cut, plain, select, tail_shares
from passes.threshold.source import Array


@dataclass
class Listed:
    """Scores in memory, streamed three at a time; the sample is as bad as it is told to be."""

    scores: Array
    sampled_from: int = 0
    read: int = 0

    @property
    def size(self) -> int:
        return self.scores.size

    @property
    def square_sum(self) -> float | None:
        return None

    def stream(self) -> Iterator[Array]:
        self.read += 1
        for start in range(0, self.size, 3):
            yield self.scores[start : start + 3].copy()

    def sample(self, count: int) -> Array:
        return self.scores[self.sampled_from :][:count]


def zeroed(part: Listed, cut: Cut) -> Array:
    """Return the mask of what a cut zeroes."""
    gone = part.scores < cut.threshold
    gone[np.flatnonzero(part.scores == cut.threshold)[: cut.ties]] = True
    assert np.count_nonzero(gone) == cut.zeroed
    return gone


def smallest(scores: Array, k: int) -> Array:
    gone = np.zeros(scores.size, np.bool_)
    gone[np.argsort(scores, kind="stable")[:k]] = True
    return gone


def lamp(scores: Array) -> Array:
    squares = scores.astype(np.float64) ** 2
    tails = np.array([squares[scores >= score].sum() for score in scores])
    return np.divide(squares, tails, out=np.zeros_like(squares), where=tails > 0)


few_values = st.integers(0, 6).map(lambda n: n / 4)
floats = st.floats(0, 1e6, width=32)
arrays = st.lists(
    hnp.arrays(np.float32, st.integers(1, 40), elements=few_values | floats), min_size=1, max_size=5
)


bounds = pytest.mark.parametrize("whole", [0, 1 << 22], ids=["bracketed", "whole"])


def select_from(
    scores: list[Array], sparsity: float, whole: int, finish: selection.Finish = plain
) -> list[tuple[Listed, Cut]]:
    with mock.patch.object(selection, "_WHOLE", whole):
        return select([Listed(array) for array in scores], sparsity, finish)


@bounds
@settings(max_examples=60)
@given(scores=arrays, sparsity=st.floats(0, 1))
def test_zeroes_what_a_stable_sort_puts_first(
    whole: int, scores: list[Array], sparsity: float
) -> None:
    together = np.concatenate(scores)
    gone = [zeroed(part, cut) for part, cut in select_from(scores, sparsity, whole)]
    expected = smallest(together, round(sparsity * together.size))
    np.testing.assert_array_equal(np.concatenate(gone), expected)


@bounds
@settings(max_examples=60)
@given(scores=arrays, sparsity=st.floats(0.01, 0.99))
def test_threshold_is_what_partition_finds(
    whole: int, scores: list[Array], sparsity: float
) -> None:
    together = np.concatenate(scores)
    k = round(sparsity * together.size)
    if not 0 < k < together.size:
        return
    kth = np.partition(together, k)[k]
    for part, cut in select_from(scores, sparsity, whole):
        gone = zeroed(part, cut)
        assert not np.any(gone & (part.scores > kth))
        assert not np.any(~gone & (part.scores < kth))


@bounds
@settings(max_examples=60)
@given(
    scores=st.lists(
        hnp.arrays(np.float32, st.integers(1, 30), elements=few_values), min_size=1, max_size=4
    ),
    sparsity=st.floats(0, 1),
)
def test_lamp_zeroes_exactly_k_and_never_a_larger_score(
    whole: int, scores: list[Array], sparsity: float
) -> None:
    cuts = select_from(scores, sparsity, whole, tail_shares)
    gone = [zeroed(part, cut) for part, cut in cuts]
    total = sum(array.size for array in scores)
    assert sum(int(np.count_nonzero(mask)) for mask in gone) == round(sparsity * total)
    shares = np.concatenate([lamp(array) for array in scores])
    mask = np.concatenate(gone)
    if mask.any() and not mask.all():
        assert shares[mask].max() <= shares[~mask].min() * (1 + 1e-12)


@pytest.mark.parametrize("finish", [plain, tail_shares])
def test_a_bracket_that_misses_is_read_again(
    finish: selection.Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_WHOLE", 0)
    generator = np.random.default_rng(0)
    scores = np.sort(np.abs(generator.standard_normal(60_000)).astype(np.float32))
    misled = Listed(scores, sampled_from=50_000)  # only the largest are seen
    fair = Listed(generator.permutation(scores))
    gone = [zeroed(part, cut) for part, cut in select([misled, fair], 0.3, finish)]
    assert misled.read > 1 or finish is tail_shares
    if finish is plain:
        expected = smallest(np.concatenate([misled.scores, fair.scores]), 36_000)
        np.testing.assert_array_equal(np.concatenate(gone), expected)
    assert sum(int(mask.sum()) for mask in gone) == 36_000


def test_keeps_little_of_many_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_WHOLE", 0)
    kept: list[int] = []
    distinct = selection._distinct

    def watch(values: Array) -> tuple[Array, Array | None]:
        kept.append(values.size)
        return distinct(values)

    monkeypatch.setattr(selection, "_distinct", watch)
    generator = np.random.default_rng(0)
    parts = [Listed(np.abs(generator.standard_normal(200_000))) for _ in range(4)]
    for finish in (plain, tail_shares):
        kept.clear()
        select(parts, 0.5, finish)
        assert sum(kept) < 0.1 * 800_000


def test_equal_scores_go_in_the_order_of_the_weights() -> None:
    parts = [Listed(np.ones(4, np.float32)), Listed(np.ones(4, np.float32))]
    assert [cut for _, cut in select(parts, 0.75)] == [Cut(np.inf, 0, 4), Cut(1.0, 2, 2)]


def test_lamp_is_the_share_of_what_is_not_smaller() -> None:
    values = np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(tail_shares(values, None, 0.0), [1 / 14, 4 / 13, 1])
    np.testing.assert_allclose(tail_shares(values, None, 2.0), [1 / 16, 4 / 15, 9 / 11])
    np.testing.assert_allclose(tail_shares(np.ones(4, np.float32), None, 0.0), [1 / 4] * 4)
    counts = np.array([4, 1])
    np.testing.assert_allclose(
        tail_shares(np.array([1, 2], np.float32), counts, 0.0), [1 / 8, 1], rtol=1e-15
    )
