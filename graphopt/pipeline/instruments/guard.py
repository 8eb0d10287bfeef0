"""Instruments: undo a pass whose result misses an accuracy or a latency bound, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.pipeline.instrument import Instrument, RollBack, Step
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.latency import interleave, ratio
from graphopt.runtime.metrics import Collector, Outputs, open_metric
from graphopt.runtime.session import Session
from graphopt.runtime.synthetic import synthetic_feeds


class MetricGuard(Instrument):
    """Rolls a pass back that makes a task metric worse than the model that came in allows.

    Args:
        metric: A name of `graphopt.runtime.metrics`, or `module:function`.
        max_drop: How much worse it may be, in the metric's own unit.
        output: The output it looks at; None: the first.
        batch: Samples per run.
    """

    name: ClassVar[str] = "metric guard"

    def __init__(
        self, metric: str, max_drop: float, *, output: str | None = None, batch: int = 32
    ) -> None:
        if not max_drop >= 0:
            raise GraphoptError(f"the guard's largest drop is {max_drop}, and must not be negative")
        self._metric = open_metric(metric, output)
        self._max_drop = max_drop
        self._batch = batch
        self._reference: Outputs | None = None
        self._wanted = 0.0

    def start(self, model: ir.Model, context: Context) -> None:
        """Measure the model before any pass.

        Raises:
            GraphoptError: The run has no labels, or the metric does not fit the outputs.
        """
        if context.feeds is None or context.feeds.labels is None:
            raise GraphoptError(
                f"the guard on {self._metric.name} needs labels",
                fix="give data with an array named labels: --data",
            )
        self._reference = self._outputs(model, context, context.feeds)
        self._wanted = self._score(self._reference, context.feeds)

    def after(self, step: Step) -> None:
        """Measure what the pass left.

        Raises:
            RollBack: It is too far below where the run began.
        """
        if not step.changed:
            return
        context = step.context_after
        assert context.feeds is not None, "the manager calls start first"
        outputs = self._outputs(step.after, context, context.feeds)
        score = self._score(outputs, context.feeds)
        step.measures[self._metric.name] = score
        # Written so that a NaN is a miss.
        if not self._metric.drop(self._wanted, score) <= self._max_drop:
            raise RollBack(
                f"{self._metric.name} went from {self._wanted:.4g} to {score:.4g},"
                f" and may lose {self._max_drop:.4g}"
            )

    def _outputs(self, model: ir.Model, context: Context, feeds: Feeds) -> Outputs:
        session = Session(model, context.providers)
        collector = Collector(self._metric.outputs(session.output_names))
        for samples in feeds.for_model(model).batches(self._batch):
            collector.add(session.run(samples))
        return collector.outputs()

    def _score(self, outputs: Outputs, feeds: Feeds) -> float:
        assert feeds.labels is not None, "start refuses feeds without labels"
        return self._metric.score(outputs, feeds.labels, self._reference or outputs)


class LatencyGuard(Instrument):
    """Rolls a pass back that makes the model slower than a bound.

    Args:
        max_ratio: Seconds after the pass over seconds before it that are let through; 1.0: no
            slower.
        measure: Measures (before, after, context) as such a ratio; None: medians of interleaved
            rounds on ONNX Runtime, on one batch of the feeds.
    """

    name: ClassVar[str] = "latency guard"

    def __init__(
        self,
        max_ratio: float,
        measure: Callable[[ir.Model, ir.Model, Context], float] | None = None,
    ) -> None:
        if not max_ratio > 0:
            raise GraphoptError(f"the guard's latency ratio is {max_ratio}, and must be positive")
        self._max_ratio = max_ratio
        self._measure = measure or latency_ratio

    def after(self, step: Step) -> None:
        """Measure what the pass left against what it was given.

        Raises:
            RollBack: It is too slow.
        """
        if not step.changed:
            return
        measured = self._measure(step.before, step.after, step.context)
        step.measures["latency ratio"] = measured
        if not measured <= self._max_ratio:
            raise RollBack(
                f"it takes {measured:.3g} times as long, and may take {self._max_ratio:.3g}"
            )


def latency_ratio(before: ir.Model, after: ir.Model, context: Context) -> float:
    """Return the latency of one model over that of another, paired round by round.

    Args:
        before: The model in the denominator.
        after: The model in the numerator; it takes the inputs of the other one, or such of another
            floating-point type.
        context: Its feeds give one batch, else its seed makes one.
    """
    given = context.feeds
    feeds = synthetic_feeds(before, seed=context.seed) if given is None else given.for_model(before)
    samples = next(feeds.batches(1))
    converted = next(feeds.following(before, after).for_model(after).batches(1))
    # Idle threads of one session that spin would slow the other.
    old, new = (Session(model, context.providers, spinning=False) for model in (before, after))
    base, latency = interleave([lambda: old.run(samples), lambda: new.run(converted)])
    return ratio(latency, base).median
