from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from passes.threshold.rows import keep_largest, keep_pattern
from passes.threshold.source import Array

tied = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    elements=st.integers(0, 9).map(float),
)


@settings(max_examples=80)
@given(tied, st.integers(-2, 45))
def test_keep_largest_is_a_stable_sort_of_each_row(scores: Array, zeroed: int) -> None:
    expected = np.ones(scores.shape, np.bool_)
    order = np.argsort(scores, axis=1, kind="stable")[:, : max(0, zeroed)]
    np.put_along_axis(expected, order, values=False, axis=1)
    np.testing.assert_array_equal(keep_largest(scores, zeroed), expected)


@settings(max_examples=80)
@given(tied, st.integers(1, 5), st.integers(1, 20))
def test_keep_pattern_keeps_n_of_m(scores: Array, kept: int, more: int) -> None:
    of = kept + more
    keep = keep_pattern(scores, kept, of)
    for start in range(0, scores.shape[1], of):
        group = scores[:, start : start + of]
        stays = keep[:, start : start + of]
        assert (stays.sum(axis=1) == min(kept, group.shape[1])).all()
        for row, mask in zip(group, stays, strict=True):
            assert row[mask].min() >= row[~mask].max(initial=0)


@pytest.mark.parametrize(("width", "expected"), [(1, [1]), (2, [1, 1]), (3, [0, 1, 1])])
def test_a_short_group_keeps_as_many(width: int, expected: list[int]) -> None:
    scores = np.arange(width, dtype=np.float32)[None]
    np.testing.assert_array_equal(keep_pattern(scores, 2, 4), np.array([expected], np.bool_))
