"""Latency measured in interleaved rounds, since the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_BLOCK = 0.005
"""Seconds that one measurement takes at least: short runs are timed several at a time."""

_MOST_RUNS = 1000


@dataclass(frozen=True)
class Latency:
    """The latency of one model.

    Args:
        rounds: Seconds per run, one measurement a round.
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds per run."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """The distance of the quartiles, as a share of the median."""
        low, high = _quartiles(self.rounds)
        return (high - low) / self.median


@dataclass(frozen=True)
class Ratio:
    """Latency relative to another model's, paired round by round.

    Args:
        median: Median of the rounds' ratios; below 1 is faster.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    low: float
    high: float


def interleave(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int = 15,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Latency, ...]:
    """Time runs in turn, A B A B, so that what slows the machine slows each of them.

    Args:
        runs: What to time.
        rounds: Measurements of each, at least 1.
        warmup: Runs of each that are not counted, at least 1.
        clock: Seconds from some start.

    Returns:
        One latency per run, in their order.
    """
    counts = [_block_size(run, warmup, clock) for run in runs]
    measured: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, seconds in zip(runs, counts, measured, strict=True):
            start = clock()
            for _ in range(count):
                run()
            seconds.append((clock() - start) / count)
    return tuple(Latency(tuple(seconds)) for seconds in measured)


def ratio(latency: Latency, base: Latency) -> Ratio:
    """Compare two latencies of the same `interleave`."""
    ratios = [
        seconds / against for seconds, against in zip(latency.rounds, base.rounds, strict=True)
    ]
    low, high = _quartiles(ratios)
    return Ratio(statistics.median(ratios), low, high)


def _block_size(run: Callable[[], object], warmup: int, clock: Callable[[], float]) -> int:
    for _ in range(max(warmup, 1)):
        start = clock()
        run()
        seconds = clock() - start
    return max(1, min(_MOST_RUNS, round(_BLOCK / max(seconds, 1e-9))))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
