"""From what was seen of a value to the range that is quantized; what lies beyond saturates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from graphopt.calibration.clipping import least_divergence, least_error
from graphopt.calibration.extrema import MinMax, MovingAverage
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.moments import Moments
from graphopt.calibration.statistics import Array, Statistic
from graphopt.errors import GraphoptError

Method = Literal["minmax", "moving_average", "percentile", "entropy", "mse", "std"]
Range = tuple[float, float]

_NUMBERS = {"moving_average": 0.01, "percentile": 99.999, "std": 6.0}
_BOUNDS = {"moving_average": (0.0, 1.0), "percentile": (50.0, 100.0), "std": (0.0, math.inf)}


@dataclass(frozen=True)
class Rule:
    """How a range is chosen. It always includes 0 and never exceeds what was seen.

    - "minmax": from the smallest to the largest number.
    - "moving_average": an exponential moving average of the ranges of batches.
    - "percentile": so many percent of the numbers lie inside; with asymmetric grids half of the
      others may lie beyond either end, with symmetric ones all of them beyond a magnitude.
    - "entropy": the clipping for which the Kullback-Leibler divergence of the numbers as they are
      from the numbers as they are stored is the smallest, see `clipping.least_divergence`.
    - "mse": the clipping for which the mean squared error on the grid is the smallest, see
      `clipping.least_error`.
    - "std": so many standard deviations around the mean (around 0 for symmetric grids).

    Args:
        method: One of these.
        number: The rate of moving_average (0.01), the percent of percentile (99.999), the standard
            deviations of std (6); None: the number in parentheses.
        given: Ranges by the address of a value, which go before any method.

    Raises:
        GraphoptError: There is no such method, or the number or a given range is out of bounds.
    """

    method: Method = "minmax"
    number: float | None = None
    given: Mapping[str, Range] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.method not in get_args(Method):
            raise GraphoptError(
                f"there is no calibration method {self.method!r}",
                fix=f"use {', '.join(get_args(Method))}",
            )
        if self.number is not None:
            if self.method not in _NUMBERS:
                raise GraphoptError(f"calibration method {self.method!r} takes no number")
            low, high = _BOUNDS[self.method]
            if not (low < self.number <= high and math.isfinite(self.number)):
                raise GraphoptError(
                    f"{self.method} must be above {low:g} and at most {high:g}, not {self.number}"
                )
        for name, (low, high) in self.given.items():
            if not (low <= high and math.isfinite(low) and math.isfinite(high)):
                raise GraphoptError(f"the range given for {name!r} is not finite, or reversed")

    def statistic(self) -> Statistic:
        """Make the statistic that this rule reads."""
        if self.method == "minmax":
            return MinMax()
        if self.method == "moving_average":
            return MovingAverage(self._number)
        return Moments() if self.method == "std" else Histogram()

    def range(self, statistic: Statistic, dtype: ir.DataType, *, symmetric: bool) -> Range | None:
        """Return the range of a value.

        Args:
            statistic: What `statistic` made, and what has seen the value.
            dtype: The type that it is stored in: how many levels there are.
            symmetric: Whether 0 is stored as the middle of the type.

        Returns:
            A finite range that includes 0; None where nothing but sentinels was seen.
        """
        if not isinstance(statistic, MinMax | MovingAverage | Moments | Histogram):
            raise TypeError(f"{statistic!r} is not what {self.method!r} reads")
        if statistic.low > statistic.high:
            return None
        symmetric = symmetric or not dtype.is_integer()
        low, high = self._ends(statistic, dtype, symmetric)
        # The data's own ends are numbers of the data: clipping there costs nothing.
        return max(min(low, 0.0), min(statistic.low, 0.0)), min(
            max(high, 0.0), max(statistic.high, 0.0)
        )

    def _ends(
        self,
        statistic: MinMax | MovingAverage | Moments | Histogram,
        dtype: ir.DataType,
        symmetric: bool,
    ) -> Range:
        if isinstance(statistic, Moments):
            return self._deviations(statistic, symmetric)
        if not isinstance(statistic, Histogram):
            return statistic.low, statistic.high
        if self.method == "percentile":
            return percentile(statistic, self._number, symmetric=symmetric)
        if self.method == "entropy":
            return least_divergence(statistic, dtype, symmetric=symmetric)
        return least_error(statistic, dtype, symmetric=symmetric)

    def _deviations(self, moments: Moments, symmetric: bool) -> Range:
        if symmetric:
            reach = self._number * math.sqrt(moments.variance + moments.mean**2)
            return -reach, reach
        reach = self._number * math.sqrt(moments.variance)
        return moments.mean - reach, moments.mean + reach

    @property
    def _number(self) -> float:
        return _NUMBERS[self.method] if self.number is None else self.number


def percentile(histogram: Histogram, percent: float, *, symmetric: bool) -> Range:
    """Return the ends of the bins between which so many percent of the numbers lie.

    Args:
        histogram: What was seen.
        percent: 50 to 100.
        symmetric: Whether magnitudes are counted, or each side apart with half of the rest.
    """
    first, counts = histogram.occupied()
    width = histogram.width
    beyond = (1 - percent / 100) * counts.sum()
    if symmetric:
        # The bin whose far end at most that many magnitudes exceed.
        last = _last(histogram.magnitudes(), beyond)
        return -(last + 1) * width, (last + 1) * width
    high = first + _last(counts, beyond / 2)
    low = first + counts.size - 1 - _last(counts[::-1], beyond / 2)
    return (low - 1) * width, (high + 1) * width


def _last(counts: Array, beyond: float) -> int:
    """Return the first bin behind which there are no more than `beyond` numbers."""
    behind = counts.sum() - np.cumsum(counts)
    return int(np.argmax(behind <= beyond))
