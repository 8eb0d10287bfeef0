"""Support vectors and ridges over kernels, in float64.

Their sums over the samples of the fit cancel: of linear support vectors of two classes float32
keeps three digits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import in_type_of, one_matrix
from graphopt.convert.sklearn.float64 import Float64
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError
from graphopt.runtime.difference import Doubles

_KERNELS = ("linear", "poly", "polynomial", "rbf", "sigmoid")


@functools.cache
def register_kernels() -> None:
    """Let skl2onnx write them."""
    from skl2onnx import update_registered_converter
    from sklearn.kernel_ridge import KernelRidge

    override("SklearnSVC", _is_plain, _classes)
    override("SklearnOneClassSVM", _is_known, _one_class)
    update_registered_converter(KernelRidge, "GraphoptKernelRidge", one_matrix, _ridge)


def _is_known(operator: Any) -> bool:
    return operator.raw_operator.kernel in _KERNELS


def _is_plain(operator: Any) -> bool:
    model = operator.raw_operator
    proper = hasattr(model, "predict_proba")
    # Their votes decide where the sums of several classes are level.
    several = len(model.classes_) > 2 and model.break_ties
    return _is_known(operator) and not proper and not several


def _classes(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    if len(model.classes_) > 2:
        _several_classes(site, model)
        return
    scores = site.mirrored(_support(site, model))
    site.finish(scores, model.classes_, scores)


def _several_classes(site: Float64, model: Any) -> None:
    """Write the votes of one sum for each two classes; what is given breaks ties of them."""
    count = len(model.classes_)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    ends = np.cumsum(model.n_support_)
    owners = [slice(end - size, end) for end, size in zip(ends, model.n_support_, strict=True)]
    duals = _dense(model.dual_coef_)
    weights = np.zeros((len(pairs), duals.shape[1]))
    first, second = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for number, (i, j) in enumerate(pairs):
        weights[number, owners[i]] = duals[j - 1, owners[i]]
        weights[number, owners[j]] = duals[i, owners[j]]
        first[number, i], second[number, j] = 1, 1
    sums = site.linear(_of_vectors(site, model), weights, model.intercept_)
    zero = site.number(0)
    votes = site(
        "Add",
        site("MatMul", _as_number(site, site("Greater", sums, zero)), site.number(first)),
        site("MatMul", _as_number(site, site("LessOrEqual", sums, zero)), site.number(second)),
    )
    given = sums
    if model.decision_function_shape == "ovr":
        confidences = site("MatMul", sums, site.number(first - second))
        size = site("Mul", site("Add", site("Abs", confidences), site.number(1)), site.number(3))
        given = site("Add", votes, site("Div", confidences, size))
    site.finish(votes, model.classes_, given)


def _as_number(site: Float64, truth: str) -> str:
    return site("Cast", truth, to=11)


def _one_class(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    scores = _support(site, model)
    signs = [site.nodes.constant(np.array([sign], np.int64)) for sign in (1, -1)]
    site.finish_label(site("Where", site("Greater", scores, site.number(0)), *signs))
    in_type_of(site.nodes, scores, operator.outputs[1])


def _support(site: Float64, model: Any) -> str:
    """Write the decision function of one sum over support vectors, (batch, 1)."""
    weights = _dense(model.dual_coef_)
    return site.linear(_of_vectors(site, model), weights, model.intercept_)


def _of_vectors(site: Float64, model: Any) -> str:
    return _kernel(
        site,
        _dense(model.support_vectors_),
        model.kernel,
        gamma=model._gamma,
        degree=model.degree,
        added=model.coef0,
    )


def _ridge(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    rows = _dense(model.X_fit_)
    if model.kernel not in _KERNELS:
        raise GraphoptError(f"the kernel {model.kernel} of KernelRidge is not known")
    gamma = 1 / rows.shape[1] if model.gamma is None else model.gamma
    kernel = _kernel(site, rows, model.kernel, gamma=gamma, degree=model.degree, added=model.coef0)
    weights = np.asarray(model.dual_coef_, np.float64).reshape(len(rows), -1)
    in_type_of(site.nodes, site("MatMul", kernel, site.number(weights)), operator.outputs[0])


def _kernel(
    site: Float64, rows: Doubles, kind: str, *, gamma: float, degree: float, added: float
) -> str:
    """Write a kernel between samples and the rows of the fit, (batch, rows)."""
    product = site("MatMul", site.features, site.number(rows.T))
    if kind == "linear":
        return product
    if kind == "rbf":
        squares = site.total(site("Mul", site.features, site.features))
        own = site("Add", squares, site.number((rows**2).sum(axis=1)))
        distance = site("Sub", own, site("Mul", product, site.number(2)))
        distance = site("Max", distance, site.number(0))
        return site("Exp", site("Mul", distance, site.number(-gamma)))
    line = site("Add", site("Mul", product, site.number(gamma)), site.number(added))
    if kind == "sigmoid":
        # tanh(x) = 2 / (1 + exp(-2 x)) - 1: ONNX Runtime has no Tanh of float64 everywhere.
        twice = site("Mul", line, site.number(2))
        return site("Sub", site("Mul", site.sigmoid(twice), site.number(2)), site.number(1))
    return site("Pow", line, site.number(degree))


def _dense(rows: Any) -> Doubles:
    found: Doubles = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, np.float64)
    return found
