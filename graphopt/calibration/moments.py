"""Sums over what was seen: mean and variance, and squares by channel."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sentinels import blocks, without_sentinels
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


class ChannelSquares:
    """Sums of squares by channel, in float64.

    Args:
        axis: The axis of channels, negative where it counts from the end.

    Attributes:
        count: How many elements of each channel were seen.
        masked: How many of all elements were sentinels, which count as zero.
    """

    needs_shape: ClassVar[bool] = True

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = self.masked = 0
        self._sums: npt.NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        return f"ChannelSquares({self.axis})"

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        if not -batch.ndim <= self.axis < batch.ndim:
            raise ValueError(f"no axis {self.axis} in shape {batch.shape}")
        axis = self.axis % batch.ndim
        others = tuple(other for other in range(batch.ndim) if other != axis)
        kept, masked = without_sentinels(batch)
        sums = np.add.reduce(np.square(kept, dtype=np.float64), axis=others)
        self._add(np.atleast_1d(sums), batch.size // max(1, batch.shape[axis]))
        self.masked += masked

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It counts channels along another axis, or another number of them.
        """
        if other.axis != self.axis:
            raise ValueError(f"axis {other.axis} does not merge into axis {self.axis}")
        if other._sums is not None:
            self._add(other._sums, other.count)
        self.masked += other.masked

    def state(self) -> State:
        """Return all that was seen."""
        found = {"counts": np.array([self.count, self.masked])}
        return found if self._sums is None else {**found, "sums": self._sums}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.count, self.masked = (int(count) for count in state["counts"])
        sums = state.get("sums")
        self._sums = None if sums is None else sums.astype(np.float64)

    def _add(self, sums: npt.NDArray[np.float64], count: int) -> None:
        if self._sums is None:
            self._sums = np.zeros_like(sums)
        if self._sums.shape != sums.shape:
            raise ValueError(f"{sums.size} channels after {self._sums.size}")
        self._sums += sums
        self.count += count

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """The sum of squares of each channel.

        Raises:
            ValueError: Nothing was seen.
        """
        if self._sums is None:
            raise ValueError("no batch was seen")
        return self._sums

    @property
    def norms(self) -> npt.NDArray[np.float64]:
        """The L2 norm of each channel over all that was seen."""
        return np.sqrt(self.sums)
