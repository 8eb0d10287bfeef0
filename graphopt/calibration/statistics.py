"""What is remembered of a value's activations: little, whatever the number of samples."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = np.ndarray[Any, np.dtype[Any]]


class Statistic(Protocol):
    """Something that is computed from all samples, seen batch by batch."""

    def update(self, batch: Array) -> None:
        """See one more batch."""

    def merge(self, other: Self) -> None:
        """See all that another one of the same kind has seen."""


class ChannelSquares:
    """Sums of squares by channel, in float64.

    Args:
        axis: The axis of channels, negative where it counts from the end.

    Attributes:
        count: How many elements of each channel were seen.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self._sums: npt.NDArray[np.float64] | None = None

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        if not -batch.ndim <= self.axis < batch.ndim:
            raise ValueError(f"no axis {self.axis} in shape {batch.shape}")
        axis = self.axis % batch.ndim
        others = tuple(other for other in range(batch.ndim) if other != axis)
        sums = np.add.reduce(np.square(batch, dtype=np.float64), axis=others)
        self._add(np.atleast_1d(sums), batch.size // max(1, batch.shape[axis]))

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It counts channels along another axis, or another number of them.
        """
        if other.axis != self.axis:
            raise ValueError(f"axis {other.axis} does not merge into axis {self.axis}")
        if other._sums is not None:
            self._add(other._sums, other.count)

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
