"""What becomes of one weight: the mask, the figures, and the tensor that takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.threshold.selection import Cut
from passes.threshold.source import Array, Source, Where, contiguous
from passes.threshold.units import Elements

_FIRST = 1024
"""Elements that are looked at before all are."""

Masks = Callable[[], Iterator[tuple[Where, Array]]]
"""Yields blocks of a weight, together all of it, and which of their elements stay."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one weight.

    Args:
        source: The weight.
        masks: Which of its elements stay, computed afresh each time.
        zeroed: How many elements are zero then.
        changes: Whether any of them is not zero yet.
        threshold: The magnitude below which elements go, in the median channel where channels
            differ; where rows or blocks decide, or all elements go, the largest that goes.
    """

    source: Source
    masks: Masks
    zeroed: int
    changes: bool
    threshold: float

    @property
    def sparsity(self) -> float:
        """The share of the weight that is zero then."""
        return self.zeroed / max(1, self.source.size)

    def tensor(self) -> ir.LazyTensor:
        """Return the tensor that takes the place of the weight; it is computed when it is read."""
        before = self.source.tensor
        return ir.LazyTensor(
            self._evaluate,
            before.dtype,
            ir.Shape(self.source.shape),
            name=before.name,
            doc_string=before.doc_string,
            metadata_props=dict(before.metadata_props),
        )

    def _evaluate(self) -> ir.TensorProtocol:
        stored = self.source.stored()
        result = np.empty(stored.shape, stored.dtype)
        for where, keep in self.masks():
            result[where] = self.source.zeroed(stored, where, keep)
        return ir.Tensor(result, dtype=self.source.tensor.dtype, name=self.source.tensor.name)


def cut_elements(units: Elements, cut: Cut) -> Decision:
    """Decide a weight whose elements were selected one by one, so that their number is known."""

    def masks() -> Iterator[tuple[Where, Array]]:
        return units.masks(cut)

    source = units.scored.source
    if cut.zeroed == source.size:
        return counted(source, masks)
    changes = cut.zeroed > 0 and (_goes(units, cut) or any(_zeroes_more(source, masks)))
    return Decision(source, masks, cut.zeroed, changes, units.scored.magnitude_of(cut.threshold))


def _goes(units: Elements, cut: Cut) -> bool:
    """Whether one of the first elements goes and is not zero: mostly, and no more is read."""
    source = units.scored.source
    scores = units.scored.scores(source.stored(), next(contiguous(source.shape, _FIRST)))
    return bool(np.any((scores > 0) & (scores < cut.threshold)))


def _zeroes_more(source: Source, masks: Masks) -> Iterator[bool]:
    """Say for each block whether it loses anything; mostly the first one ends the search."""
    stored = source.stored()
    for where, keep in masks():
        # Not magnitudes[~keep]: picking by mask is ten times as slow as comparing.
        yield bool(np.any(np.greater(source.magnitudes(stored, where), 0) & ~keep))


def counted(source: Source, masks: Masks, threshold: float | None = None) -> Decision:
    """Decide a weight by its masks, and count what they do in one pass.

    Args:
        source: The weight.
        masks: Which of its elements stay.
        threshold: The magnitude below which elements go; None: the largest that goes.
    """
    stored = source.stored()
    zeroed, largest = 0, 0.0
    for where, keep in masks():
        zeroed += keep.size - int(np.count_nonzero(keep))
        gone = source.magnitudes(stored, where) * ~keep
        largest = max(largest, float(gone.max(initial=0)))
    return Decision(source, masks, zeroed, largest > 0, largest if threshold is None else threshold)
