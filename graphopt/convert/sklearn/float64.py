"""Parts of a graph that skl2onnx writes, in float64, in which scikit-learn itself computes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.convert.boosting.trees import ML_DOMAIN, write_label
from graphopt.convert.sklearn.converters import ContainerNodes, in_type_of

_DOUBLE = 11
_LARGEST_EXPONENT = math.log(np.finfo(np.float64).max)
_LINEAR = (
    "LinearSVC",
    "LogisticRegression",
    "LogisticRegressionCV",
    "PassiveAggressiveClassifier",
    "Perceptron",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
)
_SMOOTH = ("BernoulliNB", "ComplementNB", "GaussianNB", "MultinomialNB")
"""skl2onnx writes them in float64 where their input is."""


class Float64:
    """Writes arithmetic in float64 for an operator of skl2onnx.

    Args:
        scope: Of skl2onnx.
        operator: What is written.
        container: Of skl2onnx.
    """

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self.scope, self.operator, self.container = scope, operator, container
        self.nodes = ContainerNodes(scope, container)
        self.given: list[Any] = operator.inputs

    def double(self, variable: Any) -> Any:
        """Return a variable of float64 with the values of another."""
        from skl2onnx.common.data_types import DoubleTensorType

        if isinstance(variable.type, DoubleTensorType):
            return variable
        made = self.scope.declare_local_variable("float64", DoubleTensorType(variable.type.shape))
        self.nodes.into(made.full_name, "Cast", [variable.full_name], to=_DOUBLE)
        return made

    @functools.cached_property
    def features(self) -> str:
        """Name of what the operator takes."""
        name: str = self.double(self.given[0]).full_name
        return name

    def number(self, value: Any) -> str:
        """Add a constant of float64."""
        return self.nodes.constant(np.atleast_1d(np.asarray(value, np.float64)))

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node."""
        return self.nodes.node(op_type, list(inputs), **attributes)

    def total(self, x: str) -> str:
        """Write the sum of each row, (batch, 1)."""
        return self("ReduceSum", x, self.nodes.constant(np.array([1], np.int64)), keepdims=1)

    def column(self, x: str, index: int) -> str:
        """Take a column, (batch, 1)."""
        return self("Gather", x, self.nodes.constant(np.array([index], np.int64)), axis=1)

    def sigmoid(self, x: str) -> str:
        """Write 1 / (1 + exp(-x)); ONNX Runtime's Sigmoid is inexact where it is near 0.

        Its exp does not overflow, and so it must be said where that leaves 0.
        """
        below = self("Add", self.number(1), self("Exp", self("Neg", x)))
        underflows = self("Less", x, self.number(-_LARGEST_EXPONENT))
        return self("Where", underflows, self.number(0), self("Div", self.number(1), below))

    def linear(self, x: str, coefficients: Any, intercepts: Any) -> str:
        """Write x @ coefficients.T + intercepts."""
        rows = np.atleast_2d(np.asarray(coefficients, np.float64))
        product = self("MatMul", x, self.number(rows.T))
        added = np.broadcast_to(np.asarray(intercepts, np.float64), (len(rows),))
        return self("Add", product, self.number(added))

    def repeated(self, row: Any) -> str:
        """Write a row of constants for each sample."""
        values = np.atleast_2d(np.asarray(row, np.float64))
        batch = self("Shape", self.given[0].full_name, start=0, end=1)
        width = self.nodes.constant(np.array([values.shape[1]], np.int64))
        return self("Expand", self.number(values), self("Concat", batch, width, axis=0))

    def both(self, positive: str) -> str:
        """Write the probabilities of both classes from those of the second."""
        return self("Concat", self("Sub", self.number(1), positive), positive, axis=1)

    def mirrored(self, score: str) -> str:
        """Write the scores of both classes from that of the second."""
        return self("Concat", self("Neg", score), score, axis=1)

    def finish(self, scores: str, classes: Any, given: str) -> None:
        """Write the outputs of a classifier.

        Args:
            scores: Their largest tells the label, (batch, classes).
            classes: Of the estimator.
            given: The second output.
        """
        self.finish_label(write_label(self.nodes, scores, np.asarray(classes)))
        in_type_of(self.nodes, given, self.operator.outputs[1])

    def finish_label(self, label: str) -> None:
        """Write the first output."""
        self.nodes.into(self.operator.outputs[0].full_name, "Identity", [label])


def scores_of(
    site: Float64, estimator: Any, method: str, variables: Sequence[Any] | None = None
) -> str:
    """Write what a method of a classifier gives.

    Args:
        site: Where to.
        estimator: A classifier.
        method: `decision_function` or `predict_proba`.
        variables: What it takes; else what the operator takes.

    Returns:
        The name of scores in float64: of the second class alone, (batch, 1), where there are two.
    """
    variables = site.given if variables is None else variables
    estimator, kind = unwrapped(estimator), type(unwrapped(estimator)).__name__
    if kind == "Pipeline":
        variables = _transformed(site, estimator, variables)
        return scores_of(site, estimator.steps[-1][1], method, variables)
    if kind == "_ConstantPredictor":
        return site.repeated(float(np.ravel(estimator.y_)[0]))
    binary = len(estimator.classes_) == 2
    if kind in _LINEAR:
        taken = site.double(variables[0]).full_name
        raw = site.linear(taken, estimator.coef_, estimator.intercept_)
        if method == "decision_function":
            return raw
        # Older versions of scikit-learn have other probabilities, too.
        plain = getattr(estimator, "multi_class", "auto") in ("auto", "deprecated")
        if kind.startswith("LogisticRegression") and plain and estimator.solver != "liblinear":
            return site.sigmoid(raw) if binary else site("Softmax", raw, axis=1)
    return _declared(site, estimator, variables, method, binary)


def unwrapped(estimator: Any) -> Any:
    """Return what a FrozenEstimator holds."""
    while type(estimator).__name__ == "FrozenEstimator":
        estimator = estimator.estimator
    return estimator


def second_class(site: Float64, estimator: Any) -> tuple[str, str]:
    """Write how sure a classifier of two classes is of the second, and whether it says so.

    Returns:
        Names of scores of float64 and of booleans, (batch, 1).
    """
    method = "decision_function" if hasattr(estimator, "decision_function") else "predict_proba"
    scores = scores_of(site, estimator, method)
    return scores, site("Greater", scores, site.number(threshold_of(estimator)))


def threshold_of(estimator: Any) -> float:
    """Return the score above which a classifier of two classes says the second."""
    return 0.0 if hasattr(estimator, "decision_function") else 0.5


def _transformed(site: Float64, pipeline: Any, variables: Sequence[Any]) -> Sequence[Any]:
    from skl2onnx._parse import _parse_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    if all(isinstance(variable.type, FloatTensorType) for variable in variables):
        variables = [site.double(variable) for variable in variables]
    for _, step in pipeline.steps[:-1]:
        if step is not None and step != "passthrough":
            variables = _parse_sklearn(site.scope, step, list(variables))
    return variables


def _declared(
    site: Float64, estimator: Any, variables: Sequence[Any], method: str, binary: bool
) -> str:
    """Let skl2onnx write a classifier."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import Int64TensorType

    if type(estimator).__name__ in _SMOOTH:
        variables = [site.double(variables[0])]
    operator = site.scope.declare_local_operator(
        sklearn_operator_name_map[type(estimator)], estimator
    )
    if site.container.has_options(estimator, "raw_scores"):
        options = {"raw_scores": method == "decision_function"}
        site.container.add_options(id(estimator), options)
        site.scope.add_options(id(estimator), options)
    operator.inputs.extend(variables)
    operator.outputs.append(site.scope.declare_local_variable("part_label", Int64TensorType()))
    scores = site.scope.declare_local_variable("part_scores", type(variables[0].type)())
    operator.outputs.append(scores)
    second = site.nodes.constant(np.array([1], np.int64))
    found: str = scores.full_name
    if binary:
        found = site.nodes.node("ArrayFeatureExtractor", [found, second], domain=ML_DOMAIN)
    return site("Cast", found, to=_DOUBLE)
