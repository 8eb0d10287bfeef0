"""Transformers that skl2onnx does not take as they are: their like that it does take."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn_converters import ContainerNodes, in_type_of, one_matrix
from graphopt.convert.sklearn_discriminants import as_projection
from graphopt.errors import GraphoptError


@functools.cache
def register_preprocessing() -> None:
    """Let skl2onnx write MissingIndicator."""
    from skl2onnx import update_registered_converter
    from sklearn.impute import MissingIndicator

    update_registered_converter(
        MissingIndicator, "GraphoptMissingIndicator", one_matrix, _missing_indicator
    )


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
    if kind == "KBinsDiscretizer":
        made = copy.copy(step)
        made.encode = "onehot-dense" if step.encode == "onehot" else step.encode
        made.bin_edges_ = np.array([_float32_above(edges) for edges in step.bin_edges_], object)
        return made
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


def _float32_above(edges: Any) -> Any:
    """Round edges so that no float32 changes bins: a value on an edge is in the bin above."""
    nearest = np.asarray(edges, np.float32)
    return np.where(nearest < edges, np.nextafter(nearest, np.float32(np.inf)), nearest)


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
