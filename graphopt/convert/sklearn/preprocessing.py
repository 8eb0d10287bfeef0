"""Transformers that skl2onnx does not take as they are: their like that it does take."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes, in_type_of, one_matrix
from graphopt.convert.sklearn.discriminants import as_projection
from graphopt.convert.sklearn.float64 import Float64
from graphopt.errors import GraphoptError

_DOUBLE = 11


@functools.cache
def register_preprocessing() -> None:
    """Let skl2onnx write MissingIndicator, and KBinsDiscretizer as it decides on edges."""
    from skl2onnx import update_registered_converter
    from sklearn.impute import MissingIndicator
    from sklearn.preprocessing import KBinsDiscretizer

    update_registered_converter(
        MissingIndicator, "GraphoptMissingIndicator", one_matrix, _missing_indicator
    )
    update_registered_converter(KBinsDiscretizer, "GraphoptKBins", one_matrix, _bins)


def as_transformer(step: Any) -> Any:
    """Return what computes the same as a fitted transformer, and is known to skl2onnx.

    Args:
        step: A transformer, or a classifier where it is used as one. It is not edited.
    """
    kind = type(step).__name__
    if kind == "SimpleImputer" and step.add_indicator and hasattr(step, "indicator_"):
        from sklearn.pipeline import FeatureUnion

        plain = copy.copy(step)
        plain.add_indicator = False
        return FeatureUnion([("values", plain), ("missing", step.indicator_)])
    return as_projection(step)


def replace_inside(part: Any) -> None:
    """Replace the transformers of a pipeline, a union, or by columns, each by its like."""
    kind = type(part).__name__
    if kind == "Pipeline":
        # Discriminant analysis is a classifier where it comes last.
        *inner, (name, last) = part.steps
        if not hasattr(last, "predict"):
            last = as_transformer(last)
        part.steps = [*((own, as_transformer(step)) for own, step in inner), (name, last)]
    elif kind == "FeatureUnion":
        part.transformer_list = [
            (name, as_transformer(inner)) for name, inner in part.transformer_list
        ]
    elif kind == "ColumnTransformer":
        part.transformers_ = [
            (name, as_transformer(inner), columns) for name, inner, columns in part.transformers_
        ]


def _bins(scope: Any, operator: Any, container: Any) -> None:
    """Count the edges that a value is not below, in float64."""
    model, site = operator.raw_operator, Float64(scope, operator, container)
    columns = []
    for at, edges in enumerate(model.bin_edges_):
        value = site.column(site.features, at)
        inner = edges[1:-1]
        if not len(inner):
            found = site.repeated(0)
        else:
            found = site.total(
                site("Cast", site("GreaterOrEqual", value, site.number(inner)), to=_DOUBLE)
            )
        if model.encode != "ordinal":
            numbers = site.number(np.arange(model.n_bins_[at]))
            found = site("Cast", site("Equal", found, numbers), to=_DOUBLE)
        columns.append(found)
    in_type_of(site.nodes, site("Concat", *columns, axis=1), operator.outputs[0])


def _missing_indicator(scope: Any, operator: Any, container: Any) -> None:
    model, nodes = operator.raw_operator, ContainerNodes(scope, container)
    given = operator.inputs[0].full_name
    columns = nodes.constant(np.asarray(model.features_, np.int64))
    values = nodes.node("Gather", [given, columns], axis=1)
    if isinstance(model.missing_values, str) or model.missing_values is None:
        raise GraphoptError("indicators of missing values that are no numbers are not known")
    if np.isnan(model.missing_values):
        found = nodes.node("IsNaN", [values])
    else:
        sentinel = nodes.constant(np.array([model.missing_values], np.float32))
        found = nodes.node("Equal", [nodes.node("Cast", [values], to=1), sentinel])
    in_type_of(nodes, found, operator.outputs[0])
