"""Which of two models is faster, told from noise.

Two models are timed in interleaved rounds, and the ratio of each round is one sample. The median
of the ratios lies, with a confidence of 95%, between two of the samples, whose ranks follow from
the binomial distribution (the sign test; Conover, Practical Nonparametric Statistics, 3.2). As
long as 1 lies between them too, more rounds are run, up to a limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphopt.runtime.latency import interleave

_ROUNDS = 15
_REPEATS = 4
_CLEAR = 1.96


@dataclass(frozen=True)
class Paired:
    """Ratios of the latencies of two models, one for each round.

    Args:
        ratios: Below 1: the first is faster than the second.
    """

    ratios: tuple[float, ...]

    @cached_property
    def median(self) -> float:
        """The middle ratio."""
        return statistics.median(self.ratios)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Between which the true median lies, with a confidence of 95%."""
        ranked, count = sorted(self.ratios), len(self.ratios)
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

    def __add__(self, other: Paired) -> Paired:
        return Paired(self.ratios + other.ratios)


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

    @property
    def loses(self) -> bool:
        """Whether it is slower beyond doubt in some setting."""
        return any(paired.slower for paired in self.settings.values())

    def __str__(self) -> str:
        return ", ".join(
            f"{name}: {paired.median:.2f}x ({paired.bounds[0]:.2f}-{paired.bounds[1]:.2f})"
            for name, paired in self.settings.items()
        )


Rounds = Callable[[Callable[[], object], Callable[[], object], int], Paired]
"""Times two runs in so many rounds; tests put in their own."""


def timed(first: Callable[[], object], second: Callable[[], object], rounds: int) -> Paired:
    """Time two runs in interleaved rounds."""
    one, other = interleave([first, second], rounds=rounds)
    return Paired(tuple(a / b for a, b in zip(one.rounds, other.rounds, strict=True)))


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: Rounds = timed,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Paired:
    """Time two runs until it is clear which is faster, or has been tried often enough.

    Args:
        first: The run in question.
        second: What it is held against.
        rounds: How to time them.
        out_of_time: Asked before each repetition.
    """
    found = rounds(first, second, _ROUNDS)
    for _ in range(_REPEATS):
        if found.faster or found.slower or out_of_time():
            break
        found += rounds(first, second, _ROUNDS)
    return found


def compared(
    first: Sequence[Callable[[], object]],
    second: Sequence[Callable[[], object]],
    names: Sequence[str],
    *,
    rounds: Rounds = timed,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Speed:
    """Time two models under each setting.

    Args:
        first: A run of the model in question for each setting.
        second: Likewise of what it is held against.
        names: What to call the settings.
        rounds: How to time them.
        out_of_time: Asked before each repetition.
    """
    return Speed(
        {
            name: paired(a, b, rounds=rounds, out_of_time=out_of_time)
            for name, a, b in zip(names, first, second, strict=True)
        }
    )
