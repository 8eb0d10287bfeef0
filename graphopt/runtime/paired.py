"""Which of two models is faster, told from noise.

Two models run in turn. One sample is the ratio of their shortest of a few runs: what else the
machine does only ever makes a run longer. The median of the samples' ratios lies, with a
confidence of 95%, between two of the samples, whose ranks follow from the binomial distribution
(the sign test; Conover, Practical Nonparametric Statistics, 3.2). As long as 1 lies between them
too, more rounds are run, up to a limit.

On a machine whose cores are all taken, latency never becomes clear. The time that processors have
worked does: it decides where latency cannot, and has a veto where it says the opposite.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

_ROUNDS = 15
_QUICK_ROUNDS = 9
_REPEATS = 2
_CLEAR = 1.96
_MOST_RUNS = 5
_SECONDS = 1.0
"""What the rounds of one comparison are to take, where runs are short enough for that."""

_LONGEST = 4.0
"""What the rounds of one comparison may take, where runs are long: then there are fewer rounds."""

_FEWEST_ROUNDS = 5

_SHORTEST = 2e-4
"""Seconds that one measurement takes at least: shorter runs are timed several at a time."""


@dataclass(frozen=True)
class Ratios:
    """Samples of a ratio, and where their true median lies.

    Args:
        samples: Below 1: the first of two is faster.
    """

    samples: tuple[float, ...]

    @cached_property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Between which the true median lies, with a confidence of 95%."""
        ranked, count = sorted(self.samples), len(self.samples)
        outside = max(0, math.floor((count - _CLEAR * math.sqrt(count)) / 2))
        return ranked[outside], ranked[count - 1 - outside]

    @property
    def faster(self) -> bool:
        """Whether the first is faster beyond doubt."""
        return self.bounds[1] < 1

    @property
    def slower(self) -> bool:
        """Whether the first is slower beyond doubt."""
        return self.bounds[0] > 1

    @property
    def clear(self) -> bool:
        """Whether there is no doubt which is faster."""
        return self.faster or self.slower

    def __add__(self, other: Ratios) -> Ratios:
        return Ratios(self.samples + other.samples)


@dataclass(frozen=True)
class Paired:
    """Two models compared on one batch.

    Args:
        latency: Ratio of their latencies.
        work: Ratio of the processor time that they take; None: unknown.
    """

    latency: Ratios
    work: Ratios | None = None

    @property
    def shown(self) -> Ratios:
        """What decides: latency where it is clear, else the work where that is."""
        if not self.latency.clear and self.work is not None and self.work.clear:
            return self.work
        return self.latency

    @property
    def median(self) -> float:
        """The middle ratio."""
        return self.shown.median

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the true median lies, with a confidence of 95%."""
        return self.shown.bounds

    @property
    def faster(self) -> bool:
        """Whether the first is faster beyond doubt."""
        return self.shown.faster and not (self.work is not None and self.work.slower)

    @property
    def slower(self) -> bool:
        """Whether the first is slower beyond doubt."""
        return self.shown.slower and not (self.work is not None and self.work.faster)

    def __add__(self, other: Paired) -> Paired:
        work = None if self.work is None or other.work is None else self.work + other.work
        return Paired(self.latency + other.latency, work)


@dataclass(frozen=True)
class Speed:
    """Two models under each setting (batch size, sequence length).

    Args:
        settings: By what a report calls the setting.
    """

    settings: Mapping[str, Paired]

    @property
    def score(self) -> float:
        """Geometric mean of the median ratios; below 1 is faster."""
        logs = [math.log(paired.median) for paired in self.settings.values()]
        return math.exp(statistics.fmean(logs)) if logs else 1.0

    @property
    def never_slower(self) -> bool:
        """Whether no setting looks slower: where it is in doubt, the median decides."""
        return not any(
            paired.slower or (not paired.faster and paired.median > 1)
            for paired in self.settings.values()
        )

    @property
    def gains(self) -> bool:
        """Whether it is never slower, and faster beyond doubt in some setting."""
        return self.never_slower and any(paired.faster for paired in self.settings.values())

    def __str__(self) -> str:
        return ", ".join(
            f"{name}: {paired.median:.2f}x ({paired.bounds[0]:.2f}-{paired.bounds[1]:.2f})"
            for name, paired in self.settings.items()
        )


Rounds = Callable[[Callable[[], object], Callable[[], object], int], Paired]
"""Times two runs in so many rounds; tests put in their own."""

Clock = Callable[[], float]


def timed(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    *,
    clocks: tuple[Clock, Clock] = (time.perf_counter, time.process_time),
) -> Paired:
    """Time two runs in interleaved rounds.

    Args:
        first: The run in question.
        second: What it is held against.
        rounds: How many samples to take, or fewer where runs are long.
        clocks: Of the wall, and of the work of this process's threads.
    """
    runs = (first, second)
    lone = min(_stopped(run, 1, clocks)[0] for run in runs for _ in range(2))
    block = max(1, round(_SHORTEST / max(lone, 1e-9)))
    affordable = max(_FEWEST_ROUNDS, round(_LONGEST / (2 * max(lone, _SHORTEST))))
    rounds = min(rounds, affordable)
    tries = max(1, min(_MOST_RUNS, round(_SECONDS / (2 * rounds * max(lone, _SHORTEST)))))
    samples = []
    for _ in range(rounds):
        measured = [[_stopped(run, block, clocks) for run in runs] for _ in range(tries)]
        best = [[min(row[n][clock] for row in measured) for n in (0, 1)] for clock in (0, 1)]
        samples.append([_ratio(one, other) for one, other in best])
    latency, work = zip(*samples, strict=True)
    return Paired(Ratios(latency), Ratios(work))


def _stopped(run: Callable[[], object], times: int, clocks: tuple[Clock, Clock]) -> list[float]:
    started = [clock() for clock in clocks]
    for _ in range(times):
        run()
    return [(clock() - start) / times for clock, start in zip(clocks, started, strict=True)]


def _ratio(one: float, other: float) -> float:
    # A clock that stands still says nothing.
    return one / other if one > 0 and other > 0 else 1.0


def latency_only(first: Callable[[], object], second: Callable[[], object], rounds: int) -> Paired:
    """Time two runs whose work is not done by this process's threads."""
    return Paired(timed(first, second, rounds).latency)


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: Rounds = timed,
    quick: bool = False,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Paired:
    """Time two runs until it is clear which is faster, or has been tried often enough.

    Args:
        first: The run in question.
        second: What it is held against.
        rounds: How to time them.
        quick: With fewer rounds, and no repetition.
        out_of_time: Asked before each repetition.
    """
    found = rounds(first, second, _QUICK_ROUNDS if quick else _ROUNDS)
    for _ in range(_REPEATS):
        if quick or found.latency.clear or out_of_time():
            break
        found += rounds(first, second, _ROUNDS)
    return found


def compared(
    first: Sequence[Callable[[], object]],
    second: Sequence[Callable[[], object]],
    names: Sequence[str],
    *,
    rounds: Rounds = timed,
    quick: bool = False,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Speed:
    """Time two models under each setting.

    Args:
        first: A run of the model in question for each setting.
        second: Likewise of what it is held against.
        names: What to call the settings.
        rounds: How to time them.
        quick: With fewer rounds, and no repetition.
        out_of_time: Asked before each repetition.
    """
    return Speed(
        {
            name: paired(a, b, rounds=rounds, quick=quick, out_of_time=out_of_time)
            for name, a, b in zip(names, first, second, strict=True)
        }
    )
