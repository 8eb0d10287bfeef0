"""What is remembered of a value's activations: little, whatever the number of samples.

All statistics follow the same rules:

- Integers and booleans are watched as the real numbers that they are.
- NaN is refused with `NotANumberError`: nothing can be said of such data.
- A sentinel, see `sentinels`, is counted apart and moves no range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
State = Mapping[str, Array]


class NotANumberError(ValueError):
    """A batch holds NaN."""


class Statistic(Protocol):
    """Something that is computed from all samples, seen batch by batch.

    The `repr` of one that has seen nothing says what it computes, parameters included: statistics
    that say the same are interchangeable.

    Attributes:
        needs_shape: Whether the shape of a batch matters, and not only its numbers.
    """

    needs_shape: ClassVar[bool]

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            NotANumberError: It holds NaN.
        """

    def merge(self, other: Self) -> None:
        """See all that another one of the same kind has seen."""

    def state(self) -> State:
        """Return all that was seen, as plain arrays that `restore` takes."""

    def restore(self, state: State) -> None:
        """Replace what was seen by the state of another one of the same kind."""


@runtime_checkable
class ExtentStatistic(Statistic, Protocol):
    """A statistic to which the smallest and the largest number of a batch say all."""

    def update_extent(self, low: float, high: float) -> None:
        """See one more batch by its extent: finite numbers, none of them a sentinel."""
