"""Estimators that decide on thresholds what transformers computed: in float64, as scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.sklearn.boosting import is_boosted
from graphopt.convert.sklearn.inputs import Input, Table, chosen, fronts, is_encoder
from graphopt.convert.sklearn.samples import thresholds

_STEPS = ("Binarizer", "KBinsDiscretizer", "QuantileTransformer")
"""Transformers that jump: a rounding error before them may be any error behind them."""


def decides_behind(estimator: Any) -> bool:
    """Whether an estimator has trees, or other steps of values, behind transformers.

    Thresholds of trees are midpoints of values that were seen in training. Of scaled integers one
    may be the scaled value of another integer, and then the last place of a float32 decides.
    """
    return any(
        _decides(inner)
        for pipeline in _nested(estimator)
        if type(pipeline).__name__ == "Pipeline"
        for _, step in pipeline.steps[1:]
        for inner in _nested(step)
    )


def _decides(estimator: Any) -> bool:
    return type(estimator).__name__ in _STEPS or any(True for _ in thresholds(estimator))


def _nested(part: Any) -> Iterator[Any]:
    """Yield an estimator and those it holds, fitted or not."""
    from sklearn.base import BaseEstimator

    if is_boosted(part):
        yield part
    elif isinstance(part, BaseEstimator) or type(part).__name__ == "_CalibratedClassifier":
        yield part
        for value in vars(part).values():
            yield from _nested(value)
    elif isinstance(part, list | tuple) or (isinstance(part, np.ndarray) and part.dtype == object):
        for value in part:
            yield from _nested(value)


def wider_kinds(estimator: Any, table: Table) -> dict[str, Any]:
    """Return the types of the inputs, numbers as float64 unless they name categories."""
    leaves = list(fronts(estimator))
    return {
        item.name: "float64" if _is_number(item, leaves) else item.kind for item in table.inputs
    }


def _is_number(item: Input, leaves: list[Any]) -> bool:
    if item.kind in ("string", "bool"):
        return False
    takers = [
        inner
        for leaf in leaves
        for column in item.columns
        for inner, _ in (
            chosen(leaf, column) if type(leaf).__name__ == "ColumnTransformer" else [(leaf, column)]
        )
    ]
    return item.kind.startswith("float") or not any(map(is_encoder, takers))


def take_as(graph: ir.Graph, kinds: Mapping[str, str]) -> None:
    """Let inputs have the types of a table, and cast them to what they were exported with."""
    for value in list(graph.inputs):
        kind = kinds[value.name or ""]
        dtype = ir.DataType.STRING if kind == "string" else ir.DataType.from_numpy(np.dtype(kind))
        if value.dtype != dtype:
            _cast_input(graph, value, dtype)


def _cast_input(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    inner = value.dtype
    assert inner is not None
    node = ir.node("Cast", [value], attributes={"to": int(inner)})
    made = node.outputs[0]
    made.dtype, made.name = inner, f"{value.name}_{inner.name.lower()}"
    for user, position in list(value.uses()):
        user.replace_input_with(position, made)
    node.replace_input_with(0, value)
    value.dtype = dtype
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
