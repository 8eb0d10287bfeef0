"""Selectors of columns: those that predict, and those that choose the first column alone."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError

_SELECTORS = (
    "GenericUnivariateSelect",
    "RFE",
    "RFECV",
    "SelectFdr",
    "SelectFpr",
    "SelectFromModel",
    "SelectFwe",
    "SelectKBest",
    "SelectPercentile",
    "VarianceThreshold",
)


@functools.cache
def register_selection() -> None:
    """Let skl2onnx write what selects columns."""
    for name in _SELECTORS:
        override(f"Sklearn{name}", lambda operator: True, _select)


def _select(scope: Any, operator: Any, container: Any) -> None:
    nodes, output = ContainerNodes(scope, container), operator.outputs[0]
    columns = np.flatnonzero(operator.raw_operator.get_support()).astype(np.int64)
    if not columns.size:
        raise GraphoptError(f"the {type(operator.raw_operator).__name__} selects no column")
    given = operator.inputs[0].full_name
    nodes.into(output.full_name, "Gather", [given, nodes.constant(columns)], axis=1)


def as_predictor(estimator: Any) -> Any:
    """Let what RFE selects be a step before its estimator; others stay as they are.

    skl2onnx takes RFE for a transformer, although it predicts where it comes last: in a pipeline,
    in a search, or as one of several for two classes each.

    Args:
        estimator: A fitted one. Those that hold others are edited.

    Returns:
        What skl2onnx takes for a predictor.
    """
    from sklearn.pipeline import Pipeline

    kind = type(estimator).__name__
    if kind in ("RFE", "RFECV"):
        return Pipeline([("select", estimator), ("predict", as_predictor(estimator.estimator_))])
    if kind == "Pipeline" and estimator.steps:
        name, last = estimator.steps[-1]
        estimator.steps = [*estimator.steps[:-1], (name, as_predictor(last))]
    if kind.endswith("SearchCV") and hasattr(estimator, "best_estimator_"):
        estimator.best_estimator_ = as_predictor(estimator.best_estimator_)
    if kind.startswith("OneVs"):
        estimator.estimators_ = [as_predictor(member) for member in estimator.estimators_]
    return estimator
