"""Scores: what a weight's magnitude is multiplied with before weights are compared."""

from __future__ import annotations

from typing import Literal

import numpy as np

from graphopt.errors import GraphoptError
from passes.threshold.source import Source, contiguous
from passes.threshold.spread import Array, Where, picked, within

Score = Literal[
    "magnitude", "layer_normalized", "channel_normalized", "lamp", "balanced_lamp", "wanda"
]


class Scored:
    """A weight, and the factor that turns its magnitudes into scores.

    Args:
        source: The weight.
        factor: Not negative; broadcasts against the weight. None: scores are magnitudes.
        square_sum: The sum of the squares of all scores, where it is known.
    """

    def __init__(
        self, source: Source, factor: Array | None = None, square_sum: float | None = None
    ) -> None:
        self.source = source
        self.square_sum = square_sum
        self.factor = factor
        if factor is not None:
            # Beyond the largest number lies inf, and 0 * inf is no score.
            largest = np.finfo(np.float64 if source.real_dtype == np.float64 else np.float32).max
            self.factor = np.minimum(factor, largest).astype(source.real_dtype)

    def scores(self, stored: Array, where: Where, room: Array | None = None) -> Array:
        """Return the scores of a block; the arguments are those of `Source.magnitudes`."""
        scores = self.source.magnitudes(stored, where, room)
        if self.factor is not None:
            scores *= self.factor[within(self.factor, where)]
        return scores

    def sample(self, count: int) -> Array:
        """Return the scores of about `count` elements at random places.

        A weight that was not read yet is read whole first, and checked: in order, which a disk
        does a hundred times as fast as at random places.
        """
        self.source.verify()
        scores, indices = self.source.sample(count)
        return scores if self.factor is None else scores * picked(self.factor, indices)

    def magnitude_of(self, score: float) -> float:
        """Return the magnitude that has a score, in the median channel."""
        if self.factor is None or not self.factor.any():
            return score
        # Channels of zeros have no factor. The mean of two middle ones may leave float32.
        return score / float(np.median(self.factor[self.factor > 0].astype(np.float64)))


def scored(source: Source, score: Score) -> Scored:
    """Prepare a score that needs no data. One streaming pass where norms are needed.

    With w a weight, W its layer and W_c its output channel (all it is summed over):

    - magnitude, lamp: |w| (lamp with the sum of squares)
    - layer_normalized: |w| / ||W||_2
    - channel_normalized: |w| / ||W_c||_2
    - balanced_lamp: |w| / sqrt(rms(W_c))

    `lamp` and `balanced_lamp` go through `selection.tail_shares` on top of it.

    Raises:
        GraphoptError: The weight holds NaN or infinity, or its norm overflows.
    """
    if score == "magnitude":
        return Scored(source)
    squares = channel_squares(source)
    if not np.isfinite(squares).all():
        raise GraphoptError(
            f"the norm of weight {source.at!r} overflows",
            fix=f"keep the weight out: exclude={source.at!r}",
        )
    if score == "lamp":
        return Scored(source, square_sum=float(squares.sum()))
    if score == "layer_normalized":
        return Scored(source, _inverse(np.sqrt(squares.sum(keepdims=True))))
    if score == "channel_normalized":
        return Scored(source, _inverse(np.sqrt(_spread(squares, source))))
    fan_in = source.size / max(1, squares.size)
    factor = _inverse(np.sqrt(np.sqrt(squares / fan_in)))
    square_sum = float((squares * np.square(factor)).sum())
    return Scored(source, _spread(factor, source), square_sum)


def _inverse(norms: Array) -> Array:
    """Return 1 / x, and 0 for a channel of zeros, whose scores are 0 whatever the factor."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def channel_squares(source: Source) -> Array:
    """Sum the squares of each output channel, in float64 and one block at a time.

    Returns:
        Sizes as of the weight, 1 along what its layer sums over; where it sums in groups, the
        number of groups along that axis.
    """
    axes = source.axes
    grouped = axes.input if axes.groups > 1 else None
    summed = tuple(axis for axis in axes.reduction if axis != grouped)
    total = np.zeros([1 if a in summed else size for a, size in enumerate(source.shape)])
    stored, room = source.stored(), source.room()
    for where in contiguous(source.shape):
        squares = _squares(source.real(stored, where), summed, room)
        if squares is None:
            real = source.magnitudes(stored, where).astype(np.float64)
            with np.errstate(over="ignore", under="ignore"):
                squares = np.add.reduce(np.square(real, out=real), axis=summed, keepdims=True)
        total[within(total, where)] += squares
    source.verified = True
    if grouped is None:
        return total
    runs = total.shape[grouped] // axes.groups
    starts = np.arange(0, total.shape[grouped], runs)
    return np.add.reduceat(total, starts, axis=grouped)


def _squares(real: Array, axes: tuple[int, ...], room: Array) -> Array | None:
    """Square and sum; None where squares leave the range of the type, or there is no number.

    A sum is finite only if all that it sums is, so that no element need be looked at by itself.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.square(real, out=room[: real.size].reshape(real.shape))
        sums = np.add.reduce(squares, axis=axes, keepdims=True)
    in_range = np.isfinite(sums).all() and sums.min(initial=1.0) > 1e-30
    return np.asarray(sums) if in_range else None


def _spread(squares: Array, source: Source) -> Array:
    """Repeat the sums of groups, so that they broadcast against the weight."""
    axes = source.axes
    if axes.groups == 1 or axes.input is None:
        return squares
    return np.repeat(squares, source.shape[axes.input] // axes.groups, axis=axes.input)
