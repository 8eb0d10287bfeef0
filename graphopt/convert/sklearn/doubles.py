"""Operators over float64 that skl2onnx writes as if they were over float32."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes, in_type_of
from graphopt.convert.sklearn.float64 import Float64
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class Stand:
    """What a converter of skl2onnx takes for an operator, between other values than its own.

    Args:
        raw_operator: The estimator.
        inputs: Variables of skl2onnx.
        outputs: The same.
    """

    raw_operator: Any
    inputs: list[Any]
    outputs: list[Any]

    @property
    def input_full_names(self) -> list[str]:
        """Names of the inputs."""
        return [variable.full_name for variable in self.inputs]

    @property
    def output_full_names(self) -> list[str]:
        """Names of the outputs."""
        return [variable.full_name for variable in self.outputs]


@functools.cache
def register_doubles() -> None:
    """Let skl2onnx write them over float64."""
    for name in ("GradientBoostingClassifier", "GradientBoostingRegressor"):
        _through_float32(f"Sklearn{name}")
    for name in ("AdaBoostClassifier", "AdaBoostRegressor"):
        _through_float32(f"Sklearn{name}", of_trees=True)
    _through_float64("SklearnQuantileTransformer")
    override("SklearnSimpleImputer", _is_double, _imputer)
    override("SklearnPolynomialFeatures", _is_double, _polynomials)


def _is_double(operator: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType

    return any(isinstance(variable.type, DoubleTensorType) for variable in operator.inputs)


def _through_float32(name: str, *, of_trees: bool = False) -> None:
    """Round features to float32, as trees of scikit-learn do, and let skl2onnx do the rest."""
    from skl2onnx.common._registration import get_converter

    before = get_converter(name)

    def is_meant(operator: Any) -> bool:
        grown = not of_trees or all(
            hasattr(inner, "tree_") for inner in operator.raw_operator.estimators_
        )
        return grown and _is_double(operator)

    def write(scope: Any, operator: Any, container: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

        nodes = ContainerNodes(scope, container)
        width = operator.inputs[0].type.shape[1]
        features = scope.declare_local_variable("features", FloatTensorType([None, width]))
        nodes.into(features.full_name, "Cast", [operator.inputs[0].full_name], to=1)
        made = [
            scope.declare_local_variable("rounded", FloatTensorType(variable.type.shape))
            if isinstance(variable.type, DoubleTensorType)
            else variable
            for variable in operator.outputs
        ]
        before(scope, Stand(operator.raw_operator, [features], made), container)
        for variable, own in zip(operator.outputs, made, strict=True):
            if own is not variable:
                in_type_of(nodes, own.full_name, variable)

    override(name, is_meant, write)


def _through_float64(name: str) -> None:
    """Let skl2onnx write an operator over float64, whatever it takes and gives."""
    from skl2onnx.common._registration import get_converter

    before = get_converter(name)

    def write(scope: Any, operator: Any, container: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType

        site, (output,) = Float64(scope, operator, container), operator.outputs
        given = [site.double(variable) for variable in operator.inputs]
        made = scope.declare_local_variable("exact", DoubleTensorType(output.type.shape))
        before(scope, Stand(operator.raw_operator, given, [made]), container)
        in_type_of(site.nodes, made.full_name, output)

    override(name, lambda operator: not _is_double(operator), write)


def _imputer(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    if isinstance(model.missing_values, str) or model.missing_values is None:
        raise GraphoptError("an imputer of numbers that are missing as strings is not known")
    names = [site.double(variable).full_name for variable in site.given]
    values = names[0] if len(names) == 1 else site("Concat", *names, axis=1)
    filled = np.asarray(model.statistics_, np.float64)
    kept = np.flatnonzero(~np.isnan(filled))
    if len(kept) < len(filled):
        values = site("Gather", values, site.nodes.constant(kept.astype(np.int64)), axis=1)
    if np.isnan(model.missing_values):
        missing = site("IsNaN", values)
    else:
        missing = site("Equal", values, site.number(model.missing_values))
    found = site("Where", missing, site.number(filled[kept]), values)
    in_type_of(site.nodes, found, operator.outputs[0])


def _polynomials(scope: Any, operator: Any, container: Any) -> None:
    model, site = operator.raw_operator, Float64(scope, operator, container)
    combinations = model._combinations(
        model.n_features_in_,
        model._min_degree,
        model._max_degree,
        model.interaction_only,
        model.include_bias,
    )
    axis = site.nodes.constant(np.array([1], np.int64))
    columns = []
    for chosen in combinations:
        if not chosen:
            columns.append(site.repeated(1))
            continue
        factors = site("Gather", site.features, site.nodes.constant(np.array(chosen)), axis=1)
        columns.append(site("ReduceProd", factors, axis, keepdims=1))
    in_type_of(site.nodes, site("Concat", *columns, axis=1), operator.outputs[0])
