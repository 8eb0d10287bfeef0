"""Histograms of weights before and after a pass, in fixed memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.model.streaming import pieces
from graphopt.pipeline.instrument import Instrument, Step
from graphopt.pipeline.result import Note

_BINS = 81
"""Odd, so that a bin is centred on zero."""


@dataclass(frozen=True)
class Histogram:
    """How the values of one weight are spread, before a pass and after it.

    The bins are of equal width between -`limit` and +`limit`; what lies outside is counted in the
    outermost ones. Elements that are exactly zero, and those that are not finite, are in none.

    Args:
        weight: The weight, as the pass named it.
        pass_text: The pass.
        shape: Of the weight.
        limit: Where the bins end.
        before: Elements per bin before the pass.
        after: Elements per bin after it.
        zeros_before: Elements that were zero before it.
        zeros_after: Elements that are zero after it.
        threshold: The magnitude below which the pass made elements zero, where it had one.
    """

    weight: str
    pass_text: str
    shape: tuple[int, ...]
    limit: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    zeros_before: int
    zeros_after: int
    threshold: float | None

    @property
    def elements(self) -> int:
        """How many elements the weight has."""
        return int(np.prod(self.shape, dtype=object))


class WeightHistograms(Instrument):
    """Takes a histogram of each weight that a pass says it edited, for the report.

    A pass says so by the detail `weight` of a rewrite: a name as `scope/name`. Only the largest
    weights of a pass are read; each takes a few kB.

    Args:
        most: How many weights of each pass are read, the largest first.
    """

    name: ClassVar[str] = "histograms"

    def __init__(self, most: int = 24) -> None:
        self._most = most
        self._found: list[Histogram] = []

    @property
    def found(self) -> tuple[Histogram, ...]:
        """What was seen so far, pass by pass, the largest weight first."""
        return tuple(self._found)

    def after(self, step: Step) -> None:
        """Read the weights that the pass edited."""
        notes = {weight: note for note in step.rewrites if (weight := _weight(note)) is not None}
        if not step.changed or not notes:
            return
        before, after = _tensors(step.before, notes), _tensors(step.after, notes)
        common = [
            name
            for name in notes
            if name in before and name in after and _same(before, after, name)
        ]
        largest = heapq.nsmallest(self._most, common, key=lambda name: (-before[name].size, name))
        for name in largest:
            threshold = notes[name].details.get("threshold")
            self._found.append(
                take(
                    before[name],
                    after[name],
                    weight=name,
                    pass_text=step.text,
                    threshold=float(threshold) if isinstance(threshold, int | float) else None,
                )
            )


def take(
    before: ir.TensorProtocol,
    after: ir.TensorProtocol,
    *,
    weight: str,
    pass_text: str,
    threshold: float | None = None,
) -> Histogram:
    """Take the histograms of a weight, reading it in pieces.

    Args:
        before: The weight before the pass.
        after: The weight after it, of the same shape.
        weight: Its name.
        pass_text: The pass.
        threshold: As in `Histogram`.
    """
    limit = _limit(before, threshold)
    counts_before, zeros_before = _count(before, limit)
    counts_after, zeros_after = _count(after, limit)
    return Histogram(
        weight=weight,
        pass_text=pass_text,
        shape=tuple(before.shape.numpy()),
        limit=limit,
        before=counts_before,
        after=counts_after,
        zeros_before=zeros_before,
        zeros_after=zeros_after,
        threshold=threshold,
    )


def _weight(note: Note) -> str | None:
    weight = note.details.get("weight")
    return weight if isinstance(weight, str) else None


def _tensors(model: ir.Model, wanted: Mapping[str, object]) -> dict[str, ir.TensorProtocol]:
    found: dict[str, ir.TensorProtocol] = {}
    for scope in scopes(model):
        values = [*scope.graph.initializers.values()]
        values.extend(value for node in scope.graph for value in node.outputs)
        for value in values:
            name = scope.at(value.name)
            tensor = ir.convenience.get_const_tensor(value) if name in wanted else None
            if tensor is not None and tensor.dtype.is_floating_point():
                found[name] = tensor
    return found


def _same(
    before: Mapping[str, ir.TensorProtocol], after: Mapping[str, ir.TensorProtocol], name: str
) -> bool:
    return before[name].shape == after[name].shape


def _finite(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[np.float64]]:
    for piece in pieces(tensor, 1 << 18):
        values = piece.astype(np.float64)
        yield values[np.isfinite(values)]


def _limit(tensor: ir.TensorProtocol, threshold: float | None) -> float:
    """Return where the bins end: at the largest magnitude, or nearer where outliers are far off."""
    largest = square = 0.0
    count = 0
    for values in _finite(tensor):
        nonzero = values[values != 0]
        if nonzero.size:
            largest = max(largest, float(np.abs(nonzero).max()))
            # Divided first: squares of large doubles are infinite.
            square += float(np.square(nonzero / largest).sum()) * largest * largest
            count += nonzero.size
    if largest == 0:
        return max(1.0, threshold or 0.0)
    spread = 5 * (square / count) ** 0.5
    wanted = max(spread, 1.5 * threshold) if threshold is not None else spread
    return min(largest, wanted) if np.isfinite(wanted) and wanted > 0 else largest


def _count(tensor: ir.TensorProtocol, limit: float) -> tuple[tuple[int, ...], int]:
    counts = np.zeros(_BINS, np.int64)
    zeros = 0
    for values in _finite(tensor):
        nonzero = values[values != 0]
        zeros += values.size - nonzero.size
        scaled = np.clip(nonzero / limit, -1, 1)
        bins = np.minimum(((scaled + 1) * (_BINS / 2)).astype(np.int64), _BINS - 1)
        counts += np.bincount(bins, minlength=_BINS)
    return tuple(counts.tolist()), int(zeros)
