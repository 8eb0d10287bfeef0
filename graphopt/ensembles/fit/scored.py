"""A program over labelled data, rated by a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from graphopt.ensembles.expression import Member, Program
from graphopt.ensembles.fit.evaluation import Evaluation, Outputs, Rows
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.metrics import Metric
from graphopt.runtime.metrics import Outputs as Rated

_NUMBERS = ("mae", "rmse", "spearman")
"""Metrics of numbers."""

Array = npt.NDArray[Any]


def labels_of(feeds: Feeds) -> Array:
    """Return the labels of data.

    Raises:
        GraphoptError: There are none.
    """
    if feeds.labels is None:
        raise GraphoptError(
            "fitting needs labels", file=feeds.source, fix="add an array named labels"
        )
    if not feeds.labels.size:
        raise GraphoptError("holds no samples", file=feeds.source)
    return feeds.labels


def members_of(program: Program, members: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
    """Return the members given, and those that carry their own models."""
    found = dict(members)
    for part in program.walk():
        if isinstance(part, Member) and part.model is not None and part.name not in found:
            found[part.name] = part.model if isinstance(part.model, ir.Model) else load(part.model)
    return found


class Scored:
    """A program, the data, and the metric on one of its outputs.

    Args:
        evaluation: The members over the data.
        program: As it was given.
        labels: One entry per sample.
        metric: What is wanted.
    """

    def __init__(
        self, evaluation: Evaluation, program: Program, labels: Array, metric: Metric
    ) -> None:
        self.evaluation = evaluation
        self.program = program
        self.labels = labels
        self.metric = metric
        given = evaluation.outputs(program)
        self.names = tuple(given)
        self.like = Rated({name: given[name] for name in metric.outputs(self.names)}, {})
        for name, array in self.like.arrays.items():
            if len(array) != len(labels):
                raise GraphoptError(
                    f"output {name!r} has {len(array)} rows for {len(labels)} labels",
                    fix="choose an output with a row for each sample",
                )
        self.before = self.score(given)

    def score(self, outputs: Outputs, rows: Rows | None = None) -> float:
        """Rate outputs of some samples; None: of all."""
        labels = self.labels if rows is None else self.labels[rows]
        arrays = {name: outputs[name] for name in self.like.arrays}
        return self.metric.score(Rated(arrays, {}), labels, self.like)

    def gain(self, score: float) -> float:
        """Turn a score so that more is better, and what is no number is worst."""
        turned = -self.metric.drop(0.0, score)
        return -math.inf if math.isnan(turned) else turned

    @property
    def stratified(self) -> bool:
        """Whether labels are classes."""
        return not self.numbers and self.labels.ndim == 1

    @property
    def numbers(self) -> bool:
        """Whether labels are numbers that outputs are to meet."""
        if self.metric.name in _NUMBERS:
            return True
        return self.labels.dtype.kind == "f" and bool((self.labels % 1 != 0).any())
