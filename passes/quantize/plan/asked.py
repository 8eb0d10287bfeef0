"""What damage the user bears, by which metric, and on which samples it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.metrics import Metric, open_metric
from graphopt.runtime.providers import parse_provider, parse_providers
from graphopt.runtime.synthetic import synthetic_feeds
from passes.quantize.plan.damage import Bounds
from passes.quantize.plan.scores import score_outputs

if TYPE_CHECKING:
    from passes.quantize.quantize import Quantize

MIN_SQNR = 15.0
"""Of outputs whose meaning is unknown, in dB."""

MIN_AGREEMENT = 0.98
"""Of rows of scores, without labels."""

MIN_ORDER = 0.998
"""Rank correlation of outputs of one number a sample: what is ranked or held against thresholds."""

MAX_DROP = 0.005
"""Of accuracy, with labels: half a point."""

MADE_UP = 6.0
"""What SQNR must be better by, in dB, on inputs that are made up."""

_SYNTHETIC_SAMPLES = 32

_PROVIDERS = {"ort-cpu": "cpu", "ort-cuda": "cuda", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class Asked:
    """How damage is judged.

    Args:
        feeds: The samples, laid out for the model.
        made_up: Whether they are made up, for want of data.
        metric: The task's; None: there are no labels.
        bounds: What is bearable.
    """

    feeds: Feeds
    made_up: bool
    metric: Metric | None
    bounds: Bounds


def asked(quantize: Quantize, model: ir.Model, context: Context) -> Asked:
    """Return how damage is judged, given what the user said and the data that there is.

    Raises:
        GraphoptError: A metric or its bound was asked for, but there are no labels; no inputs
            could be made up for the model.
    """
    made_up = context.feeds is None
    if context.feeds is None:
        feeds = synthetic_feeds(model, seed=context.seed, samples=_SYNTHETIC_SAMPLES)
    else:
        feeds = context.feeds.for_model(model)
    metric = _metric(quantize, model, feeds)
    return Asked(feeds, made_up, metric, _bounds(quantize, feeds, made_up, metric))


def timed_on(target: str, providers: Sequence[str]) -> str | None:
    """Return the provider of a run that a target stands for; None: it has none, or no one's."""
    wanted = _PROVIDERS.get(target)
    for provider in parse_providers(providers):
        if wanted is not None and provider.name == parse_provider(wanted).name:
            return provider.text
    return None


def _metric(quantize: Quantize, model: ir.Model, feeds: Feeds) -> Metric | None:
    if quantize.metric is not None:
        if feeds.labels is None:
            raise GraphoptError(
                f"quantize: the metric {quantize.metric!r} needs labels",
                fix="give --data with an array 'labels'",
            )
        return open_metric(quantize.metric)
    if feeds.labels is not None and _are_classes(model, feeds):
        return open_metric("accuracy")
    if quantize.max_drop is not None:
        raise GraphoptError(
            "quantize: max_drop is a drop of a metric",
            fix="give metric=\"...\" too, and --data with an array 'labels'",
        )
    return None


def _are_classes(model: ir.Model, feeds: Feeds) -> bool:
    """Whether labels are classes, and the first output has scores for them."""
    labels, output = feeds.labels, model.graph.outputs[0]
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub":
        return False
    if output.shape is None or len(output.shape) != 2:
        return output.name in score_outputs(model) and output.shape is None
    classes = output.shape[1]
    return not isinstance(classes, int) or 0 <= int(labels.min()) <= int(labels.max()) < classes


def _bounds(quantize: Quantize, feeds: Feeds, made_up: bool, metric: Metric | None) -> Bounds:
    """What the user asked for and nothing else; or where nothing was asked for, the defaults."""
    if quantize.max_drop is not None or quantize.min_sqnr is not None:
        return Bounds(min_sqnr=quantize.min_sqnr, max_drop=quantize.max_drop)
    return Bounds(
        min_sqnr=MIN_SQNR + MADE_UP * made_up,
        min_agreement=None if made_up else _least_agreement(feeds.count),
        max_drop=None if metric is None else MAX_DROP,
        min_order=None if made_up else MIN_ORDER,
        rows=None if feeds.labels is None else len(feeds.labels),
    )


def _least_agreement(samples: int) -> float:
    """On few samples one may get another winner: all or nothing would hang on a near tie."""
    return min(MIN_AGREEMENT, 1 - 1 / samples)
