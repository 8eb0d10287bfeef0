"""What a task of `quantize.py` is: a model, samples to calibrate on, a metric on held-out data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Run = Callable[[Arrays], list[Any]]
"""Runs a model on one batch of inputs by name; returns its outputs in their order."""


class AbsentError(Exception):
    """A model, its data, or a program that makes the data is not on this machine."""


@dataclass(frozen=True)
class Places:
    """Where things lie that no package carries.

    Args:
        shared: The folder of models/ and data/ for development.
        cache: Where trained models and synthesized speech are kept.
    """

    shared: Path
    cache: Path

    def shared_file(self, name: str) -> Path:
        path = self.shared / name
        if not path.is_file():
            raise AbsentError(f"no {name} in --shared")
        return path


@dataclass(frozen=True)
class Task:
    """A model with its data.

    Args:
        name: Short, without spaces.
        model: The float model.
        metric: Its name, for people.
        calibration: Samples that no test sees, along axis 0 or the axis in `axes`; arrays of rank 0
            go to every run whole.
        evaluate: The metric of a model on held-out data.
        axes: Inputs whose samples do not lie along axis 0.
        batches: The batch sizes to time.
        transformer: Whether a user would tell NNCF that it is one.
        perplexity: Whether the metric is a perplexity: lower is better, and a point is one percent.
    """

    name: str
    model: Path
    metric: str
    calibration: Callable[[], Arrays]
    evaluate: Callable[[Run], float]
    axes: Mapping[str, int] = field(default_factory=dict)
    batches: tuple[int, int] = (1, 32)
    transformer: bool = False
    perplexity: bool = False

    def cut(self, arrays: Arrays, start: int, stop: int) -> Arrays:
        """The samples from `start` to `stop`."""
        pieces = {}
        for name, array in arrays.items():
            where = (slice(None),) * self.axes.get(name, 0) + (slice(start, stop),)
            pieces[name] = array if array.ndim == 0 else np.ascontiguousarray(array[where])
        return pieces

    def count(self, arrays: Arrays) -> int:
        """The number of samples."""
        return next(a.shape[self.axes.get(n, 0)] for n, a in arrays.items() if a.ndim)

    def drop(self, before: float, after: float) -> float:
        """How much is lost, in points: hundredths of the metric, or percents of a perplexity."""
        if not np.isfinite(after):
            return float("inf")
        return 100 * ((after - before) / before if self.perplexity else before - after)


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        AbsentError: It is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise AbsentError(f"package {name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def require(module: str) -> None:
    """Raise AbsentError if a module that a task needs is not installed."""
    if importlib.util.find_spec(module) is None:
        raise AbsentError(f"package {module} is not installed")
