"""Nearest neighbours, neighbours within a radius, and outliers by their neighbours.

skl2onnx divides by distances that are zero, looks for neighbours that are not there, and finds
others than scikit-learn where two are as near as float32 can tell.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.boosting.trees import write_label
from graphopt.convert.sklearn.converters import in_type_of, several_targets
from graphopt.convert.sklearn.float64 import Float64
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_METRICS = ("euclidean", "manhattan", "minkowski")


@functools.cache
def register_neighbours() -> None:
    """Let skl2onnx write them."""
    override("SklearnKNeighborsClassifier", _is_known, _classifier)
    override("SklearnKNeighborsRegressor", _is_known, _regressor)
    override("SklearnRadiusNeighborsClassifier", lambda operator: True, _classifier)
    override("SklearnRadiusNeighborsRegressor", lambda operator: True, _regressor)
    override("SklearnLocalOutlierFactor", _is_narrow, _outliers)


def _is_known(operator: Any) -> bool:
    """Whether the metric is one that is written from differences; skl2onnx has others."""
    return operator.raw_operator.effective_metric_ in _METRICS


def _is_narrow(operator: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType

    is_double = isinstance(operator.inputs[0].type, DoubleTensorType)
    return not is_double and len(operator.outputs) == 2


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    several = isinstance(model.classes_, list)
    classes = [np.asarray(own) for own in (model.classes_ if several else [model.classes_])]
    targets = np.asarray(model._y).reshape(len(model._fit_X), -1)
    values = [np.eye(len(own))[targets[:, at]] for at, own in enumerate(classes)]
    votes = _sums(site, model, values)
    totals = [site.total(found) for found in votes]
    empty = [site("Equal", total, site.number(0)) for total in totals]
    shares = [
        site("Div", found, site("Where", none, site.number(1), total))
        for found, none, total in zip(votes, empty, totals, strict=True)
    ]
    outliers = getattr(model, "outlier_label_", None)
    if several:
        if outliers is not None and any(label is not None for label in outliers):
            raise GraphoptError("labels of outliers are not known for several targets")
        several_targets(site.nodes, operator, shares, classes)
        return
    label = None if outliers is None else outliers[0]
    if label is None:
        site.finish(shares[0], classes[0], shares[0])
        return
    if label in classes[0]:
        row = site.number((classes[0] == label)[None].astype(np.float64))
        shares[0] = site("Where", empty[0], row, shares[0])
        site.finish(shares[0], classes[0], shares[0])
        return
    chosen = write_label(site.nodes, shares[0], classes[0])
    last = site.nodes.constant(np.array([-1], np.int64))
    other = site.nodes.constant(np.array([int(label)], np.int64))
    site.finish_label(site("Where", site("Reshape", empty[0], last), other, chosen))
    in_type_of(site.nodes, shares[0], operator.outputs[1])


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    targets = np.asarray(model._y, np.float64).reshape(len(model._fit_X), -1)
    # The last column counts: the mean of no neighbours is NaN, as in scikit-learn.
    (sums,) = _sums(site, model, [np.hstack([targets, np.ones((len(targets), 1))])])
    width = targets.shape[1]
    first = site.nodes.constant(np.arange(width))
    mean = site("Div", site("Gather", sums, first, axis=1), site.column(sums, width))
    in_type_of(site.nodes, mean, operator.outputs[0])


def _sums(site: Float64, model: Any, values: list[Array]) -> list[str]:
    """Write the weighted sums of what the neighbours of each sample have."""
    distances = _distances(site, model)
    if model.weights not in ("uniform", "distance"):
        raise GraphoptError("weights of neighbours are a function")
    if hasattr(model, "radius") and model.radius is not None:
        near = site("Cast", site("LessOrEqual", distances, site.number(model.radius)), to=11)
        weights = _weights(site, distances, near) if model.weights == "distance" else near
        return [site("MatMul", weights, site.number(own)) for own in values]
    count = site.nodes.constant(np.array([model.n_neighbors], np.int64))
    nearest, index = site.nodes.nodes("TopK", [distances, count], 2, axis=1, largest=0)
    middle = site.nodes.constant(np.array([1], np.int64))
    if model.weights == "uniform":
        found = [site.total(site("Gather", site.number(own), index)) for own in values]
        return [site("Squeeze", total, middle) for total in found]
    weights = _weights(site, nearest, site.number(1))
    # (batch, 1, neighbours) @ (batch, neighbours, values)
    row = site("Unsqueeze", weights, middle)
    return [
        site("Squeeze", site("MatMul", row, site("Gather", site.number(own), index)), middle)
        for own in values
    ]


def _weights(site: Float64, distances: str, near: str) -> str:
    """Write 1 / distance; a sample that is a neighbour itself counts alone."""
    same = site("Equal", distances, site.number(0))
    alone = site("Cast", same, to=11)
    inverse = site("Div", near, site("Where", same, site.number(1), distances))
    some = site("Greater", site.total(alone), site.number(0))
    return site("Where", some, alone, inverse)


def _distances(site: Float64, model: Any) -> str:
    """Write the distances to all samples of the fit, (batch, samples), from their differences."""
    from skl2onnx.algebra.complex_functions import onnx_cdist
    from skl2onnx.algebra.onnx_ops import OnnxIdentity

    metric, extra = model.effective_metric_, {}
    if metric == "minkowski":
        extra = {"p": model.effective_metric_params_["p"]}
    name = site.scope.get_unique_variable_name("distances")
    rows = np.asarray(model._fit_X, np.float64)
    opset = site.container.target_opset
    found = onnx_cdist(
        site.double(site.given[0]),
        rows,
        metric=metric,
        dtype=np.float64,
        op_version=opset,
        dim_in=rows.shape[1],
        dim_out=rows.shape[0],
        **extra,
    )
    OnnxIdentity(found, op_version=opset, output_names=[name]).add_to(site.scope, site.container)
    return str(name)


def _outliers(scope: Any, operator: Any, container: Any) -> None:
    """Let skl2onnx write LocalOutlierFactor in float64: it divides by small distances."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType

    site = Float64(scope, operator, container)
    wide = scope.declare_local_operator("SklearnLocalOutlierFactor", operator.raw_operator)
    wide.inputs.append(site.double(operator.inputs[0]))
    for name, kind in (("label", Int64TensorType), ("scores", DoubleTensorType)):
        wide.outputs.append(scope.declare_local_variable(name, kind()))
    site.finish_label(wide.outputs[0].full_name)
    in_type_of(site.nodes, wide.outputs[1].full_name, operator.outputs[1])
