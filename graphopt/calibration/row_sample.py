"""A few of the rows that a layer reads, drawn evenly from all of them."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sentinels import without_sentinels
from graphopt.calibration.statistics import Array, State


class RowSample:
    """A bounded sample of rows: all elements that differ in their channel only.

    Each row draws a number, and the rows with the smallest ones stay: so a sample of parts merges
    into a sample of the whole (Efraimidis and Spirakis, 2006, with equal weights).

    Args:
        axis: The axis of channels, negative where it counts from the end.
        most: How many rows are kept.
        seed: Of the numbers drawn.
    """

    needs_shape: ClassVar[bool] = True

    def __init__(self, axis: int, most: int = 256, seed: int = 0) -> None:
        self.axis, self.most, self.seed = axis, most, seed
        self.seen = 0
        self._rows: npt.NDArray[np.float32] | None = None
        self._keys: npt.NDArray[np.float64] = np.zeros(0)

    def __repr__(self) -> str:
        return f"RowSample({self.axis}, {self.most}, {self.seed})"

    @property
    def rows(self) -> npt.NDArray[np.float32] | None:
        """The rows, of shape (n, channels), in an order that means nothing; None: none was seen."""
        return self._rows

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            ValueError: It has no such axis, or another number of channels.
        """
        if not -batch.ndim <= self.axis < batch.ndim:
            raise ValueError(f"no axis {self.axis} in shape {batch.shape}")
        last = np.moveaxis(batch, self.axis, -1)
        count = last.size // max(1, last.shape[-1])
        if not last.shape[-1] or not count:
            return
        keys = np.random.default_rng([self.seed, self.seen]).random(count)
        self.seen += count
        chosen = np.argsort(keys, kind="stable")[: self.most]
        places = np.unravel_index(chosen, last.shape[:-1])
        kept, _ = without_sentinels(last[places] if last.ndim > 1 else last[None])
        self._add(np.asarray(kept, np.float32), keys[chosen])

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It samples channels along another axis, or another number of them.
        """
        if repr(other) != repr(self):
            raise ValueError(f"{other!r} does not merge into {self!r}")
        self.seen += other.seen
        if other._rows is not None:
            self._add(other._rows, other._keys)

    def state(self) -> State:
        """Return all that was seen."""
        found = {"seen": np.array(self.seen), "keys": self._keys}
        return found if self._rows is None else {**found, "rows": self._rows}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.seen, self._keys = int(state["seen"]), state["keys"].astype(np.float64)
        rows = state.get("rows")
        self._rows = None if rows is None else rows.astype(np.float32)

    def _add(self, rows: npt.NDArray[np.float32], keys: npt.NDArray[np.float64]) -> None:
        if self._rows is not None:
            if self._rows.shape[1] != rows.shape[1]:
                raise ValueError(f"{rows.shape[1]} channels after {self._rows.shape[1]}")
            rows, keys = np.concatenate([self._rows, rows]), np.concatenate([self._keys, keys])
        order = np.argsort(keys, kind="stable")[: self.most]
        self._rows, self._keys = rows[order], keys[order]
