"""Discriminant analysis, nearest centroids, dummies and perceptrons of several labels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import in_type_of, one_matrix
from graphopt.convert.sklearn.float64 import Float64
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError

_INT64 = 7
_OPTIONS = {"zipmap": [True, False, "columns"], "nocl": [True, False], "raw_scores": [True, False]}


@functools.cache
def register_discriminants() -> None:
    """Let skl2onnx write them."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
    from sklearn.discriminant_analysis import (
        LinearDiscriminantAnalysis,
        QuadraticDiscriminantAnalysis,
    )
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.neighbors import NearestCentroid

    for kind, write in (
        (LinearDiscriminantAnalysis, _linear),
        (QuadraticDiscriminantAnalysis, _quadratic),
        (NearestCentroid, _centroids),
        (DummyClassifier, _dummy_classifier),
    ):
        update_registered_converter(
            kind,
            f"Graphopt{kind.__name__}",
            calculate_linear_classifier_output_shapes,
            write,
            options=_OPTIONS,
        )
    update_registered_converter(DummyRegressor, "GraphoptDummyRegressor", one_matrix, _dummy_mean)
    override("SklearnMLPClassifier", _has_several_labels, _perceptron)


def _linear(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    scores = site.linear(site.features, model.coef_, model.intercept_)
    binary = len(model.classes_) == 2
    compared = site.mirrored(scores) if binary else scores
    given = site.both(site.sigmoid(scores)) if binary else site("Softmax", scores, axis=1)
    site.finish(compared, model.classes_, compared if _is_raw(container, model) else given)


def as_projection(step: Any) -> Any:
    """Return what a step of a pipeline transforms by, where skl2onnx takes it for a classifier."""
    if type(step).__name__ != "LinearDiscriminantAnalysis" or step.solver == "lsqr":
        return step
    from sklearn.decomposition import PCA

    made = PCA(n_components=step._max_components)
    made.components_ = step.scalings_[:, : step._max_components].T
    width = made.components_.shape[1]
    made.mean_ = step.xbar_ if step.solver == "svd" else np.zeros(width)
    made.n_components_, made.n_features_in_ = len(made.components_), width
    return made


def _is_raw(container: Any, model: Any) -> bool:
    return bool(container.get_options(model, {"raw_scores": False})["raw_scores"])


def _quadratic(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    columns = []
    parts = zip(model.means_, model.rotations_, model.scalings_, model.priors_, strict=True)
    for mean, rotation, scaling, prior in parts:
        turned = rotation * scaling**-0.5
        moved = site("MatMul", site("Sub", site.features, site.number(mean)), site.number(turned))
        norm = site.total(site("Mul", moved, moved))
        added = np.log(prior) - np.log(scaling).sum() / 2
        columns.append(site("Add", site("Mul", norm, site.number(-0.5)), site.number(added)))
    scores = site("Concat", *columns, axis=1)
    given = site("Softmax", scores, axis=1)
    if _is_raw(container, model):
        given = scores
        if len(columns) == 2:
            given = site.mirrored(site("Sub", columns[1], columns[0]))
    site.finish(scores, model.classes_, given)


def _centroids(scope: Any, operator: Any, container: Any) -> None:
    """Write what is the nearest, or the discriminants where not all classes are as probable."""
    model, site = operator.raw_operator, Float64(scope, operator, container)
    count = len(model.classes_)
    spread: Any = getattr(model, "within_class_std_dev_", None)
    if model.metric not in ("euclidean", "manhattan"):
        raise GraphoptError(f"the metric {model.metric} of NearestCentroid is not known")
    nearness = site("Neg", site("Concat", *_distances(site, model, None), axis=1))
    if not hasattr(model, "class_prior_"):
        # Before scikit-learn 1.6 there were no probabilities.
        site.finish(nearness, model.classes_, nearness)
        return
    columns = []
    distances = _distances(site, model, np.where(spread == 0, 1, spread))
    for distance, prior in zip(distances, model.class_prior_, strict=True):
        square = site("Mul", distance, distance)
        columns.append(site("Sub", site.number(2 * np.log(prior)), square))
    scores = site("Concat", *columns, axis=1)
    level = np.isclose(model.class_prior_, 1 / count).all()
    compared = nearness if level else scores
    given = compared
    if hasattr(model, "predict_proba"):
        given = site("Softmax", scores, axis=1)
    site.finish(compared, model.classes_, given)


def _distances(site: Float64, model: Any, spread: Any) -> list[str]:
    """Write the distance to each centroid, features being divided by a spread."""
    columns = []
    for centroid in model.centroids_:
        away = site("Sub", site.features, site.number(centroid))
        if spread is not None:
            away = site("Div", away, site.number(spread))
        if model.metric == "manhattan":
            columns.append(site.total(site("Abs", away)))
        else:
            columns.append(site("Sqrt", site.total(site("Mul", away, away))))
    return columns


def _dummy_classifier(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    if model.strategy not in ("prior", "most_frequent", "constant") or model.n_outputs_ > 1:
        raise GraphoptError(f"DummyClassifier of the strategy {model.strategy} is random")
    classes = np.asarray(model.classes_)
    if model.strategy == "constant":
        chosen = classes == np.ravel(model.constant)[0]
    else:
        chosen = np.arange(len(classes)) == np.argmax(model.class_prior_)
    label = site.repeated(chosen)
    given = site.repeated(model.class_prior_) if model.strategy == "prior" else label
    site.finish(label, classes, given)


def _dummy_mean(scope: Any, operator: Any, container: Any) -> None:
    site = Float64(scope, operator, container)
    given = site.repeated(operator.raw_operator.constant_)
    in_type_of(site.nodes, given, operator.outputs[0])


def _has_several_labels(operator: Any) -> bool:
    kind: str = operator.raw_operator._label_binarizer.y_type_
    return kind.startswith("multilabel")


def _perceptron(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    x = site.features
    for number, (weights, added) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        x = site.linear(x, weights.T, added)
        if number < len(model.coefs_) - 1:
            x = _activated(site, x, model.activation)
    x = site.sigmoid(x)
    site.finish_label(site("Cast", site("Greater", x, site.number(0.5)), to=_INT64))
    in_type_of(site.nodes, x, operator.outputs[1])


def _activated(site: Float64, x: str, name: str) -> str:
    if name == "identity":
        return x
    if name == "relu":
        return site("Max", x, site.number(0))
    if name == "logistic":
        return site.sigmoid(x)
    if name == "tanh":
        twice = site.sigmoid(site("Mul", x, site.number(2)))
        return site("Sub", site("Mul", twice, site.number(2)), site.number(1))
    raise GraphoptError(f"the activation {name} is not known")
