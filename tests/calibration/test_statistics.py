from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibration import ChannelSquares
from graphopt.calibration.grouping import runs


@settings(max_examples=50)
@given(st.integers(0, 6), st.sampled_from([0, 1, 2, -1, -2]), st.integers(0, 2**32 - 1))
def test_batches_and_merges_give_what_all_samples_give(split: int, axis: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((6, 4, 5)).astype(np.float32)
    whole, first, second = ChannelSquares(axis), ChannelSquares(axis), ChannelSquares(axis)
    if axis == 0:  # samples are channels: both halves must have as many
        pieces = [samples, samples[::-1]]
    else:
        pieces = [piece for piece in (samples[:split], samples[split:]) if len(piece)]
    for piece, statistic in zip(pieces, (first, second), strict=False):
        statistic.update(piece)
        whole.update(piece)
    first.merge(second)
    np.testing.assert_allclose(first.sums, whole.sums, rtol=1e-12)
    assert first.count == whole.count
    others = tuple(other for other in range(3) if other != axis % 3)
    expected = sum((piece.astype(np.float64) ** 2).sum(axis=others) for piece in pieces)
    np.testing.assert_allclose(first.norms, np.sqrt(expected))


def test_float16_squares_do_not_overflow() -> None:
    statistic = ChannelSquares(0)
    statistic.update(np.full((1, 1000), 60000, np.float16))
    np.testing.assert_allclose(statistic.sums, np.float64(np.float16(60000)) ** 2 * 1000)


def test_what_does_not_fit_is_refused() -> None:
    statistic = ChannelSquares(2)
    with pytest.raises(ValueError, match="no batch was seen"):
        _ = statistic.sums
    with pytest.raises(ValueError, match=r"no axis 2 in shape \(3, 4\)"):
        statistic.update(np.ones((3, 4)))
    statistic.update(np.ones((3, 4, 5)))
    with pytest.raises(ValueError, match="6 channels after 5"):
        statistic.update(np.ones((3, 4, 6)))
    with pytest.raises(ValueError, match="axis 1 does not merge into axis 2"):
        statistic.merge(ChannelSquares(1))


def test_runs_stay_within_the_limit() -> None:
    sizes = {"a": 40, "b": 50, "c": 20, "e": 300, "f": 10, "g": 0, "h": 90, "i": 1}
    assert list(runs(sizes, 100)) == [("a", "b"), ("c",), ("e",), ("f", "g", "h"), ("i",)]
    assert list(runs({}, 1)) == []
