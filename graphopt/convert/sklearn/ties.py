"""Samples whose label is not a matter of rounding, by what `predict` of an estimator compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.convert.sklearn.inputs import Table
from graphopt.convert.sklearn.outputs import last_of
from graphopt.convert.sklearn.reference import Output, values_of
from graphopt.convert.ties import CLASSES, TIE, decided
from graphopt.runtime.difference import Doubles
from graphopt.runtime.feeds import Array, Batch

_METHODS = ("decision_function", "predict_proba")

_NEIGHBOURS = (
    "two neighbours with other targets are level there, or two classes, and the order of the search"
    " or rounding decides between them"
)


def reason(estimator: Any) -> str:
    """Say why samples are left out."""
    if _is_by_neighbours(last_of(estimator)):
        return _NEIGHBOURS
    return CLASSES


def _is_by_neighbours(last: Any) -> bool:
    return type(last).__name__ in ("KNeighborsClassifier", "KNeighborsRegressor")


def decided_rows(
    estimator: Any, table: Table, wanted: Sequence[Output], batch: Batch, source: str
) -> Array:
    """Tell of each sample whether rounding cannot change its label.

    The scores that count are those whose largest one is the label that the estimator predicts: a
    probability may be saturated where the score behind it is not. A sample that they do not explain
    is compared like any other.

    Raises:
        GraphoptError: The estimator does not take the samples.
    """
    kept = np.ones(len(next(iter(batch.values()))), bool)
    if _is_by_neighbours(last_of(estimator)):
        kept = _labels_decided(estimator, table, wanted, batch, source, kept)
        both: Array = np.logical_and(kept, _neighbours_decided(estimator, table.joined(batch)))
        return both
    return _labels_decided(estimator, table, wanted, batch, source, kept)


def _neighbours_decided(estimator: Any, samples: Any) -> Array:
    """Tell for which samples it does not matter which of equally far neighbours count.

    That is where the last neighbour that counts is nearer than the next one, or where all that are
    as far as it have the same targets.
    """
    while hasattr(estimator, "best_estimator_") or type(estimator).__name__ == "Pipeline":
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            if len(estimator.steps) > 1:
                samples = estimator[:-1].transform(samples)
            estimator = estimator.steps[-1][1]
    last, fitted = estimator.n_neighbors - 1, estimator.n_samples_fit_
    targets = np.asarray(estimator._y).reshape(fitted, -1)
    count = min(2 * (last + 1) + 1, fitted)
    while True:
        distances, found = estimator.kneighbors(samples, count)
        edge = distances[:, [last]]
        level = np.abs(distances - edge) <= TIE * edge
        if count == fitted or not level[:, -1].any():
            break
        count = min(2 * count, fitted)
    others = (targets[found] != targets[found[:, last]][:, None]).any(axis=2)
    cut = level[:, last + 1 :].any(axis=1)
    kept: Array = ~(cut & (level & others).any(axis=1))
    return kept


def _labels_decided(
    estimator: Any,
    table: Table,
    wanted: Sequence[Output],
    batch: Batch,
    source: str,
    kept: Array,
) -> Array:
    if not any(item.name == "label" for item in wanted):
        return kept
    labels = np.asarray(values_of(estimator, table, Output("label", "predict"), batch, source))
    parts: list[int | None] = [item.part for item in wanted if item.part is not None]
    parts = parts or [None]
    classes = getattr(last_of(estimator), "classes_", None)
    most = -1
    for method in _METHODS:
        if not hasattr(estimator, method):
            continue
        judged = [
            _judged(
                labels if part is None else labels[:, part],
                classes if part is None or classes is None else classes[part],
                values_of(estimator, table, Output(method, method, part), batch, source),
                method,
            )
            for part in parts
        ]
        agrees = np.logical_and.reduce([own for own, _ in judged])
        clear = np.logical_and.reduce([own for _, own in judged])
        if int(agrees.sum()) > most:
            most, kept = int(agrees.sum()), clear | ~agrees
    return kept


def _judged(labels: Array, classes: Any, given: Array, method: str) -> tuple[Array, Array]:
    """Tell which labels are those of the scores, and which of these are beyond rounding."""
    scores: Doubles = np.asarray(given, np.float64)
    middle = 0.5 if method == "predict_proba" else 0.0
    flat = scores.ndim == 1 or scores.shape[1] == 1
    if flat or (labels.ndim == 2 and labels.shape == scores.shape):
        # One score for each of several labels, or of two classes.
        scores = scores.reshape(labels.shape) - middle
        clear = np.abs(scores) > TIE * np.abs(scores).max(initial=0)
        names = [0, 1] if labels.ndim == 2 else [-1, 1] if classes is None else classes
        agrees = labels == np.asarray(names)[(scores > 0).astype(int)]
        if labels.ndim == 2:
            return agrees.all(axis=1), clear.all(axis=1)
        return agrees, clear
    if classes is None or scores.shape[1] != len(classes):
        # As of one classifier for each two classes, whose votes count.
        return np.zeros(len(labels), bool), np.ones(len(labels), bool)
    chosen = np.asarray(classes)[scores.argmax(axis=1)]
    return chosen == labels.reshape(-1), decided(scores)
