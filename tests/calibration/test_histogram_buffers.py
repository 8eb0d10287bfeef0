"""Histograms count what their definition says, however many take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphopt.calibration import Histogram

Array = np.ndarray[Any, Any]


def batches(seed: int, dtype: Any) -> list[Array]:
    """Long and short ones, whose ranges differ and grow."""
    random = np.random.default_rng(seed)
    sizes = (5, 100_000, 1, 33_000, 70)
    return [
        (random.standard_normal(size) * (seed + number) - seed).astype(dtype)
        for number, size in enumerate(sizes, 1)
    ]


def counted(numbers: Array, exponent: int) -> dict[int, int]:
    bins, counts = np.unique(
        np.trunc(numbers.astype(np.float64) * 2.0**-exponent), return_counts=True
    )
    return {int(k): int(count) for k, count in zip(bins, counts, strict=True)}


def held(histogram: Histogram) -> dict[int, int]:
    first, counts = histogram.occupied()
    return {first + place: int(count) for place, count in enumerate(counts) if count}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64])
def test_histograms_that_take_turns_count_apart(dtype: Any) -> None:
    data = [batches(seed, dtype) for seed in range(4)]
    histograms = [Histogram(bins) for bins in (2048, 300, 2048, 7)]
    for turn in zip(*data, strict=True):
        for histogram, batch in zip(histograms, turn, strict=True):
            histogram.update(batch)
    for histogram, seen in zip(histograms, data, strict=True):
        assert held(histogram) == counted(np.concatenate(seen), histogram.exponent)


def test_threads_count_apart() -> None:
    data = [batches(seed, np.float32) * 5 for seed in range(8)]

    def count(seen: list[Array]) -> Histogram:
        histogram = Histogram()
        for batch in seen:
            histogram.update(batch)
        return histogram

    with ThreadPoolExecutor(4) as pool:
        for histogram, seen in zip(pool.map(count, data), data, strict=True):
            assert held(histogram) == counted(np.concatenate(seen), histogram.exponent)
