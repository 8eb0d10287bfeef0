"""Sums in float64: what statistics that add up share, and the two that sum by channel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from graphopt.calibration.channels import others, position, require_same
from graphopt.calibration.sentinels import without_sentinels
from graphopt.calibration.statistics import Array, State

Wide = npt.NDArray[np.float64]


class Sums:
    """Sums of one shape, which add up over batches.

    Attributes:
        count: How many summands were seen.
        masked: How many sentinels were seen.
    """

    needs_shape: ClassVar[bool] = True
    summed: ClassVar[str]
    """What the last axis of the sums counts, in the plural."""

    def __init__(self) -> None:
        self.count = self.masked = 0
        self._sums: Wide | None = None

    @property
    def sums(self) -> Wide:
        """The sums.

        Raises:
            ValueError: Nothing was seen.
        """
        if self._sums is None:
            raise ValueError("no batch was seen")
        return self._sums

    def state(self) -> State:
        """Return all that was seen."""
        found = {"counts": np.array([self.count, self.masked])}
        return found if self._sums is None else {**found, "sums": self._sums}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.count, self.masked = (int(count) for count in state["counts"])
        sums = state.get("sums")
        self._sums = None if sums is None else sums.astype(np.float64)

    def _add(self, sums: Wide, count: int, masked: int) -> None:
        if self._sums is None:
            self._sums = np.zeros_like(sums)
        if self._sums.shape != sums.shape:
            raise ValueError(f"{sums.shape[-1]} {self.summed} after {self._sums.shape[-1]}")
        self._sums += sums
        self.count += count
        self.masked += masked

    def _add_all(self, other: Self) -> None:
        if other._sums is not None:
            self._add(other._sums, other.count, other.masked)


class ChannelSums(Sums, ABC):
    """Sums by channel.

    Args:
        axis: The axis of channels, negative where it counts from the end.

    Attributes:
        count: How many elements of each channel were seen.
        masked: How many of all elements were sentinels, which count as zero.
    """

    summed: ClassVar[str] = "channels"

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.axis})"

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        axis = position(self.axis, batch.shape)
        kept, masked = without_sentinels(batch)
        sums = np.atleast_1d(self._summed(kept, others(axis, batch.shape)))
        self._add(sums, batch.size // max(1, batch.shape[axis]), masked)

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It counts channels along another axis, or another number of them.
        """
        require_same(self.axis, other.axis)
        self._add_all(other)

    @abstractmethod
    def _summed(self, batch: Array, axes: tuple[int, ...]) -> Wide:
        """Sum what is made of numbers over all axes but that of channels."""


class ChannelMean(ChannelSums):
    """The mean of each channel."""

    @property
    def means(self) -> Wide | None:
        """The mean of each channel; None before any element was seen."""
        return None if self._sums is None or not self.count else self._sums / self.count

    def _summed(self, batch: Array, axes: tuple[int, ...]) -> Wide:
        return np.asarray(np.add.reduce(batch, axis=axes, dtype=np.float64))


class ChannelSquares(ChannelSums):
    """Sums of squares by channel."""

    @property
    def norms(self) -> Wide:
        """The L2 norm of each channel over all that was seen."""
        return np.sqrt(self.sums)

    def _summed(self, batch: Array, axes: tuple[int, ...]) -> Wide:
        return np.asarray(np.add.reduce(np.square(batch, dtype=np.float64), axis=axes))
