"""Instruments: undo a pass whose result misses an accuracy or a latency bound, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.pipeline.instrument import Instrument, RollBack, Step


class MetricGuard(Instrument):
    """Rolls a pass back that takes a metric too far below that of the model that came in.

    Args:
        score: Measures a model; higher is better.
        max_drop: How far the score may fall, in the score's own unit.
        metric: What messages and reports call the score.
    """

    name: ClassVar[str] = "metric guard"

    def __init__(
        self, score: Callable[[ir.Model], float], max_drop: float, metric: str = "score"
    ) -> None:
        if not max_drop >= 0:
            raise GraphoptError(f"the guard's largest drop is {max_drop}, and must not be negative")
        self._score = score
        self._max_drop = max_drop
        self._metric = metric
        self._wanted = 0.0

    def start(self, model: ir.Model, context: Context) -> None:
        """Measure the model before any pass."""
        del context
        self._wanted = self._score(model)

    def after(self, step: Step) -> None:
        """Measure what the pass left.

        Raises:
            RollBack: It is too far below where the run began.
        """
        if not step.changed:
            return
        score = self._score(step.after)
        step.measures[self._metric] = score
        # Written so that a NaN is a miss.
        if not self._wanted - score <= self._max_drop:
            raise RollBack(
                f"{self._metric} fell from {self._wanted:.4g} to {score:.4g},"
                f" by more than {self._max_drop:.4g}"
            )


class LatencyGuard(Instrument):
    """Rolls a pass back that makes the model slower than a bound.

    Args:
        ratio: Measures (model before the pass, model after it): seconds after over seconds before.
        max_ratio: The largest ratio that is let through; 1.0: no slower.
    """

    name: ClassVar[str] = "latency guard"

    def __init__(self, ratio: Callable[[ir.Model, ir.Model], float], max_ratio: float) -> None:
        if not max_ratio > 0:
            raise GraphoptError(f"the guard's latency ratio is {max_ratio}, and must be positive")
        self._ratio = ratio
        self._max_ratio = max_ratio

    def after(self, step: Step) -> None:
        """Measure what the pass left against what it was given.

        Raises:
            RollBack: It is too slow.
        """
        if not step.changed:
            return
        ratio = self._ratio(step.before, step.after)
        step.measures["latency ratio"] = ratio
        if not ratio <= self._max_ratio:
            raise RollBack(f"it takes {ratio:.3g} times as long, more than {self._max_ratio:.3g}")
