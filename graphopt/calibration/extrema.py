"""Ranges of what was seen: exact ones, by channel, and averaged over batches."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np

from graphopt.calibration.channels import others, require_same
from graphopt.calibration.sentinels import extent, limit_of, real_dtype
from graphopt.calibration.statistics import Array, NotANumberError, State


class MinMax:
    """The smallest and the largest number; the same however the data is split and merged.

    Attributes:
        low: The smallest number; inf before any was seen.
        high: The largest number; -inf before any was seen.
        masked: How many sentinels were seen.
    """

    needs_shape: ClassVar[bool] = False

    def __init__(self) -> None:
        self.low, self.high, self.masked = math.inf, -math.inf, 0

    def __repr__(self) -> str:
        return "MinMax()"

    def update(self, batch: Array) -> None:
        """See one more batch."""
        low, high, masked = extent(batch)
        self.update_extent(low, high)
        self.masked += masked

    def update_extent(self, low: float, high: float) -> None:
        """See one more batch by its extent."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Self) -> None:
        """See all that another one has seen."""
        self.update_extent(other.low, other.high)
        self.masked += other.masked

    def state(self) -> State:
        """Return all that was seen."""
        return {"extent": np.array([self.low, self.high]), "masked": np.array(self.masked)}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.low, self.high = (float(end) for end in state["extent"])
        self.masked = int(state["masked"])


class MovingAverage:
    """An exponential moving average of the ranges of batches, which forgets outliers.

    After each batch, average += rate * (range of the batch - average); it starts at the range of
    the first batch. It depends on the order of batches and on what is a batch: merging another one
    gives what its batches would have given behind those seen here, up to float64 rounding.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018 (arXiv:1712.05877), section 3.1.

    Args:
        rate: How much of a new batch is taken, 0 to 1.

    Attributes:
        batches: How many batches with any data were seen.
        masked: How many sentinels were seen.
    """

    needs_shape: ClassVar[bool] = False

    def __init__(self, rate: float = 0.01) -> None:
        self.rate = rate
        self.batches = self.masked = 0
        self._first = np.zeros(2)
        self._average = np.zeros(2)

    def __repr__(self) -> str:
        return f"MovingAverage({self.rate!r})"

    @property
    def low(self) -> float:
        """The average of the smallest numbers; inf before any was seen."""
        return float(self._average[0]) if self.batches else math.inf

    @property
    def high(self) -> float:
        """The average of the largest numbers; -inf before any was seen."""
        return float(self._average[1]) if self.batches else -math.inf

    def update(self, batch: Array) -> None:
        """See one more batch."""
        low, high, masked = extent(batch)
        self.update_extent(low, high)
        self.masked += masked

    def update_extent(self, low: float, high: float) -> None:
        """See one more batch by its extent."""
        if low > high:
            return
        ends = np.array([low, high])
        if self.batches:
            self._average += self.rate * (ends - self._average)
        else:
            self._first, self._average = ends, ends.copy()
        self.batches += 1

    def merge(self, other: Self) -> None:
        """See the batches of another one, behind those seen so far."""
        self.masked += other.masked
        if not other.batches:
            return
        if self.batches:
            left = (1 - self.rate) ** other.batches
            self._average = other._average + left * (self._average - other._first)
        else:
            self._first, self._average = other._first.copy(), other._average.copy()
        self.batches += other.batches

    def state(self) -> State:
        """Return all that was seen."""
        counts = np.array([self.batches, self.masked])
        return {"counts": counts, "first": self._first, "average": self._average}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.batches, self.masked = (int(count) for count in state["counts"])
        self._first, self._average = state["first"].copy(), state["average"].copy()


class ChannelRange:
    """The smallest and the largest number of each channel.

    Args:
        axis: The axis of channels, negative where it counts from the end.

    Attributes:
        low: The smallest number of each channel, of shape (C,), inf where none was seen; None
            before any batch.
        high: The largest ones, -inf where none was seen.
        masked: How many sentinels were seen.
    """

    needs_shape: ClassVar[bool] = True

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.low: Array | None = None
        self.high: Array | None = None
        self.masked = 0

    def __repr__(self) -> str:
        return f"ChannelRange({self.axis})"

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        axes = others(self.axis, batch.shape)
        real = batch.astype(real_dtype(batch.dtype), copy=False)
        low = real.min(axis=axes, initial=math.inf)
        high = real.max(axis=axes, initial=-math.inf)
        if np.isnan(low).any():
            raise NotANumberError("holds NaN")
        limit = limit_of(batch.dtype)
        if real.size and (low.min() < -limit or high.max() > limit):
            kept = np.abs(real) <= limit
            self.masked += int(real.size - np.count_nonzero(kept))
            low = real.min(axis=axes, initial=math.inf, where=kept)
            high = real.max(axis=axes, initial=-math.inf, where=kept)
        self._include(low.astype(np.float64), high.astype(np.float64))

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It counts channels along another axis, or another number of them.
        """
        require_same(self.axis, other.axis)
        if other.low is not None and other.high is not None:
            self._include(other.low, other.high)
        self.masked += other.masked

    def _include(self, low: Array, high: Array) -> None:
        if self.low is None or self.high is None:
            self.low, self.high = low.copy(), high.copy()
            return
        if self.low.shape != low.shape:
            raise ValueError(f"{low.size} channels after {self.low.size}")
        np.minimum(self.low, low, out=self.low)
        np.maximum(self.high, high, out=self.high)

    def state(self) -> State:
        """Return all that was seen."""
        found: dict[str, Array] = {"masked": np.array(self.masked)}
        if self.low is not None and self.high is not None:
            found |= {"low": self.low, "high": self.high}
        return found

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.masked = int(state["masked"])
        low, high = state.get("low"), state.get("high")
        self.low = None if low is None else low.copy()
        self.high = None if high is None else high.copy()
