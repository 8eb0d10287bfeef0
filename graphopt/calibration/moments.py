"""Mean and variance."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np

from graphopt.calibration.sentinels import blocks
from graphopt.calibration.statistics import Array, State


class Moments:
    """Count, mean and variance, in float64.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, 1979. Splits and merges agree up to float64 rounding.

    Attributes:
        count: How many numbers were seen, sentinels not counted.
        mean: Their mean.
        low: The smallest number; inf before any was seen.
        high: The largest number; -inf before any was seen.
        masked: How many sentinels were seen.
    """

    needs_shape: ClassVar[bool] = False

    def __init__(self) -> None:
        self.count = self.masked = 0
        self.mean = self._squares = 0.0
        self.low, self.high = math.inf, -math.inf

    def __repr__(self) -> str:
        return "Moments()"

    @property
    def variance(self) -> float:
        """The mean square of the distance from the mean; 0 before anything was seen."""
        return self._squares / self.count if self.count else 0.0

    def update(self, batch: Array) -> None:
        """See one more batch."""
        for block, low, high, masked in blocks(batch):
            self.masked += masked
            if block.size:
                self.low, self.high = min(self.low, low), max(self.high, high)
                real = block.astype(np.float64)
                mean = float(real.mean())
                real -= mean
                self._include(block.size, mean, float(real @ real))

    def merge(self, other: Self) -> None:
        """See all that another one has seen."""
        self.masked += other.masked
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._include(other.count, other.mean, other._squares)

    def _include(self, count: int, mean: float, squares: float) -> None:
        if not count:
            return
        together = self.count + count
        apart = mean - self.mean
        self.mean += apart * count / together
        self._squares += squares + apart * apart * self.count * count / together
        self.count = together

    def state(self) -> State:
        """Return all that was seen."""
        return {
            "counts": np.array([self.count, self.masked]),
            "numbers": np.array([self.mean, self._squares, self.low, self.high]),
        }

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.count, self.masked = (int(count) for count in state["counts"])
        self.mean, self._squares, self.low, self.high = (float(x) for x in state["numbers"])
