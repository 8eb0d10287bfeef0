"""The standard deviation of weights, streamed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from passes.threshold.source import Source, contiguous


def standard_deviation(sources: Iterable[Source]) -> float:
    """Return the standard deviation of all elements about their common mean, in float64.

    Blocks are merged by the parallel formula of Chan, Golub and LeVeque (1979), which does not
    cancel where the mean is large.

    Raises:
        GraphoptError: An element is NaN or infinite.
    """
    count, mean, squares = 0, 0.0, 0.0
    for source in sources:
        source.verify()
        stored = source.stored()
        for where in contiguous(source.shape):
            block = source.real(stored, where).astype(np.float64)
            apart = float(block.mean()) - mean
            together = count + block.size
            squares += float(np.square(block - block.mean()).sum())
            squares += apart * apart * count * block.size / together
            mean += apart * block.size / together
            count = together
    return math.sqrt(squares / count) if count else 0.0
