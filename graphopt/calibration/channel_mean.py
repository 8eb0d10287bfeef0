"""The mean of each channel of a value."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sentinels import without_sentinels
from graphopt.calibration.statistics import Array, State


class ChannelMean:
    """Sums by channel, in float64.

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
        return f"ChannelMean({self.axis})"

    @property
    def means(self) -> npt.NDArray[np.float64] | None:
        """The mean of each channel; None before any element was seen."""
        return None if self._sums is None or not self.count else self._sums / self.count

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        if not -batch.ndim <= self.axis < batch.ndim:
            raise ValueError(f"no axis {self.axis} in shape {batch.shape}")
        axis = self.axis % batch.ndim
        kept, masked = without_sentinels(batch)
        others = tuple(other for other in range(batch.ndim) if other != axis)
        sums = np.add.reduce(kept, axis=others, dtype=np.float64)
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
