"""Classifiers made of others, and those of SGD: labels from what `predict` itself compares.

skl2onnx takes labels from probabilities in float32, which saturate and underflow.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import in_type_of
from graphopt.convert.sklearn.float64 import Float64, scores_of, second_class, threshold_of
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError

_INT64 = 7


@functools.cache
def register_meta() -> None:
    """Let skl2onnx write them."""
    override("SklearnSGDClassifier", _is_probable, _sgd)
    override("SklearnCalibratedClassifierCV", lambda operator: True, _calibrated)
    override("SklearnOneVsRestClassifier", _are_classifiers, _one_versus_rest)
    override("SklearnOneVsOneClassifier", _are_classifiers, _one_versus_one)


def _is_probable(operator: Any) -> bool:
    return getattr(operator.raw_operator, "loss", None) in ("log_loss", "modified_huber")


def _are_classifiers(operator: Any) -> bool:
    from sklearn.base import is_regressor

    return not any(is_regressor(inner) for inner in operator.raw_operator.estimators_)


def _sgd(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    binary = len(model.classes_) == 2
    scores = site.linear(site.features, model.coef_, model.intercept_)
    compared = site.mirrored(scores) if binary else scores
    if container.get_options(model, {"raw_scores": False})["raw_scores"]:
        site.finish(compared, model.classes_, compared)
        return
    if model.loss == "log_loss":
        positive = site.sigmoid(scores)
    else:
        clipped = site("Clip", scores, *(site.nodes.constant(np.array(b)) for b in (-1.0, 1.0)))
        positive = site("Div", site("Add", clipped, site.number(1)), site.number(2))
    shares = site.both(positive) if binary else _shares(site, positive, len(model.classes_))
    site.finish(compared, model.classes_, shares)


def _shares(site: Float64, positive: str, classes: int) -> str:
    """Divide by the sum over the classes; where that is zero, all are as probable."""
    total = site.total(positive)
    none = site("Equal", total, site.number(0))
    divided = site("Div", positive, site("Where", none, site.number(1), total))
    return site("Where", none, site.number(1 / classes), divided)


def _calibrated(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    parts = [_one_calibrated(site, inner) for inner in model.calibrated_classifiers_]
    mean = site("Div", site("Sum", *parts), site.number(len(parts)))
    site.finish(mean, model.classes_, mean)


def _one_calibrated(site: Float64, model: Any) -> str:
    inner, count = model.estimator, len(model.classes)
    if model.method not in ("sigmoid", "isotonic"):
        raise GraphoptError(f"calibration by {model.method} is not known")
    method = "decision_function" if hasattr(inner, "decision_function") else "predict_proba"
    scores = scores_of(site, inner, method)
    if count == 2:
        return site.both(_calibration(site, scores, model.calibrators[0]))
    positions = np.searchsorted(model.classes, inner.classes_).tolist()
    columns = {
        position: _calibration(site, site.column(scores, number), calibrator)
        for number, (position, calibrator) in enumerate(
            zip(positions, model.calibrators, strict=True)
        )
    }
    joined = [columns.get(at) or site.repeated(0) for at in range(count)]
    return _shares(site, site("Concat", *joined, axis=1), count)


def _calibration(site: Float64, scores: str, calibrator: Any) -> str:
    """Write a calibrator over a column."""
    if hasattr(calibrator, "a_"):
        line = site("Mul", scores, site.number(-calibrator.a_))
        return site.sigmoid(site("Sub", line, site.number(calibrator.b_)))
    known, values = calibrator.X_thresholds_, calibrator.y_thresholds_
    if len(known) == 1:
        return site.repeated(values[0])
    if known.dtype == np.float32:
        scores = site("Cast", site("Cast", scores, to=1), to=11)
    if calibrator.out_of_bounds != "clip":
        raise GraphoptError("isotonic calibration is not known but clipped")
    ends = [site.nodes.constant(np.array(float(end))) for end in (known[0], known[-1])]
    scores = site("Clip", scores, *ends)
    # The number of thresholds below tells the segment.
    below = site("Cast", site("Greater", scores, site.number(known)), to=11)
    last = [site.nodes.constant(np.array(float(end))) for end in (1, len(known) - 1)]
    upper = site("Cast", site("Clip", site.total(below), *last), to=_INT64)
    lower = site("Sub", upper, site.nodes.constant(np.array([1], np.int64)))
    x, y = (site.number(np.asarray(array, np.float64)) for array in (known, values))
    x0, x1 = site("Gather", x, lower), site("Gather", x, upper)
    y0, y1 = site("Gather", y, lower), site("Gather", y, upper)
    slope = site("Div", site("Sub", y1, y0), site("Sub", x1, x0))
    return site("Add", site("Mul", slope, site("Sub", scores, x0)), y0)


def _one_versus_rest(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    columns = [second_class(site, inner)[0] for inner in model.estimators_]
    scores = site("Concat", *columns, axis=1)
    given = scores
    proper = all(hasattr(inner, "predict_proba") for inner in model.estimators_)
    raw = container.get_options(model, {"raw_scores": False})["raw_scores"]
    if proper and not raw and hasattr(model.estimators_[0], "decision_function"):
        columns = [scores_of(site, inner, "predict_proba") for inner in model.estimators_]
        given = site("Concat", *columns, axis=1)
    if model.multilabel_:
        above = site("Greater", scores, site.number(threshold_of(model.estimators_[0])))
        site.finish_label(site("Cast", above, to=_INT64))
        in_type_of(site.nodes, given, operator.outputs[1])
        return
    is_probable = proper and not raw
    if len(model.estimators_) == 1:
        given = site.both(given) if is_probable else site.mirrored(given)
        middle = site.number(threshold_of(model.estimators_[0]))
        scores = site.mirrored(site("Sub", scores, middle))
    elif is_probable:
        total = site.total(given)
        none = site("Equal", total, site.number(0))
        given = site("Div", given, site("Where", none, site.number(1), total))
    site.finish(scores, model.classes_, given)


def _one_versus_one(scope: Any, operator: Any, container: Any) -> None:
    """Write votes, ties among which the sums of confidences break."""
    model, site = operator.raw_operator, Float64(scope, operator, container)
    if model.pairwise_indices_ is not None:
        raise GraphoptError("OneVsOneClassifier over precomputed kernels is not known")
    found = [second_class(site, inner) for inner in model.estimators_]
    confidences = site("Concat", *(scores for scores, _ in found), axis=1)
    chosen = site("Cast", site("Concat", *(said for _, said in found), axis=1), to=11)
    count = len(model.classes_)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    first, second = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for number, (i, j) in enumerate(pairs):
        first[number, i], second[number, j] = 1, 1
    other = site("Sub", site.number(1), chosen)
    votes = site(
        "Add",
        site("MatMul", chosen, site.number(second)),
        site("MatMul", other, site.number(first)),
    )
    sums = site("MatMul", confidences, site.number(second - first))
    size = site("Mul", site("Add", site("Abs", sums), site.number(1)), site.number(3))
    scores = site("Add", votes, site("Div", sums, size))
    if count > 2:
        site.finish(scores, model.classes_, scores)
        return
    score = site.column(scores, 1)
    middle = site.number(threshold_of(model.estimators_[0]))
    site.finish(site.mirrored(site("Sub", score, middle)), model.classes_, site.mirrored(score))
