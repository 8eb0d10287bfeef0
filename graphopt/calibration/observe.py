"""Showing the values of a model to statistics, in few runs and bounded memory.

How a model is run is the caller's business: this package knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.calibration.statistics import Statistic

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, Array]


def runs(
    sizes: Mapping[str, int | None], limit: int = 256 << 20, *, most: int = 64
) -> Iterator[tuple[str, ...]]:
    """Distribute values over runs, so that what one run returns stays within a limit.

    Args:
        sizes: The bytes of each value for one batch; None: not known, so a run of its own.
        limit: Bytes that one run may return. A value beyond it gets a run of its own.
        most: How many values one run may return.

    Yields:
        The names of one run, in the order of `sizes`.
    """
    names: list[str] = []
    held = 0
    for name, size in sizes.items():
        if names and (size is None or held + size > limit or len(names) == most):
            yield tuple(names)
            names, held = [], 0
        names.append(name)
        held += limit if size is None else size
    if names:
        yield tuple(names)


def observe(
    batches: Iterable[Batch],
    run: Callable[[Batch], Mapping[str, Array]],
    statistics: Mapping[str, Sequence[Statistic]],
) -> None:
    """Update statistics from every batch.

    Args:
        batches: Inputs of the model by name.
        run: Returns values of the model by name, at least those that are asked for.
        statistics: By the name of the value they watch; an input is watched as it is fed.
    """
    for batch in batches:
        values = {**batch, **run(batch)}
        for name, watching in statistics.items():
            for statistic in watching:
                statistic.update(values[name])
