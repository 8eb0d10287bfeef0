"""TransformedTargetRegressor: a regressor, and the way back from the targets it was fitted on."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes
from graphopt.convert.sklearn.functions import is_function, write_function
from graphopt.errors import GraphoptError


@functools.cache
def register_targets() -> None:
    """Let skl2onnx write a TransformedTargetRegressor."""
    from skl2onnx import update_registered_converter
    from sklearn.compose import TransformedTargetRegressor

    update_registered_converter(
        TransformedTargetRegressor,
        "GraphoptTransformedTargetRegressor",
        _output_shape,
        _convert,
    )


def _output_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    first = operator.inputs[0]
    kind = DoubleTensorType if isinstance(first.type, DoubleTensorType) else FloatTensorType
    operator.outputs[0].type = kind([first.get_first_dimension(), None])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx._parse import _parse_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    target, output = operator.raw_operator, operator.outputs[0]
    doubles = isinstance(output.type, DoubleTensorType)
    dtype = np.float64 if doubles else np.float32
    nodes = ContainerNodes(scope, container)
    predicted = _parse_sklearn(scope, target.regressor_, operator.inputs)[0]
    raw = nodes.node("Cast", [predicted.full_name], to=11 if doubles else 1)
    nodes.into(output.full_name, "Identity", [_back(nodes, target.transformer_, raw, dtype)])


def _back(nodes: ContainerNodes, transformer: Any, raw: str, dtype: Any) -> str:
    kind = type(transformer).__name__
    if kind == "FunctionTransformer":
        function = transformer.inverse_func
        if function is None:
            return raw
        if is_function(function) and not transformer.inv_kw_args:
            return write_function(nodes, function, raw, dtype)
    elif kind == "StandardScaler":
        if transformer.with_std:
            raw = nodes.node("Mul", [raw, nodes.constant(transformer.scale_.astype(dtype))])
        if transformer.with_mean:
            raw = nodes.node("Add", [raw, nodes.constant(transformer.mean_.astype(dtype))])
        return raw
    elif kind == "MinMaxScaler":
        raw = nodes.node("Sub", [raw, nodes.constant(transformer.min_.astype(dtype))])
        return nodes.node("Div", [raw, nodes.constant(transformer.scale_.astype(dtype))])
    raise GraphoptError(f"the way back from the targets of its {kind} is not known")
