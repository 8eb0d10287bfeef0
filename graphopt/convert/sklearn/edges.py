"""Inputs that scalers put on the thresholds behind them, where a rounding error would show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.convert.sklearn.samples import members, thresholds
from graphopt.runtime.feeds import Array

_BY_COLUMN = ("MaxAbsScaler", "MinMaxScaler", "RobustScaler", "SimpleImputer", "StandardScaler")

Edge = tuple[int, float]


def edges_behind(estimator: Any) -> Iterator[Edge]:
    """Yield columns and values of them that scaling puts on a threshold.

    Args:
        estimator: A fitted one. Behind other steps than scalers none are found.
    """
    kind = type(estimator).__name__
    if kind == "Pipeline":
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        edges = [edge for edge in thresholds(steps[-1]) if np.isfinite(edge[1])] if steps else []
        for step in reversed(steps[:-1]):
            edges = list(_before(step, edges))
        yield from edges if len(steps) > 1 else ()
    elif kind.startswith(("Bagging", "Stacking", "Voting")):
        columns = getattr(estimator, "estimators_features_", None)
        for number, inner in enumerate(members(estimator)):
            for at, value in edges_behind(inner):
                yield (int(columns[number][at]) if columns is not None else at), value
    elif hasattr(estimator, "best_estimator_"):
        yield from edges_behind(estimator.best_estimator_)


def _before(step: Any, edges: Sequence[Edge]) -> Iterator[Edge]:
    """Go back through a transformer; what does not come of one column is left out."""
    kind = type(step).__name__
    if kind == "ColumnTransformer":
        for name, inner, _ in step.transformers_:
            made, columns = step.output_indices_[name], step._transformer_to_input_indices[name]
            own = [(at - made.start, value) for at, value in edges if made.start <= at < made.stop]
            if made.stop - made.start != len(columns) or isinstance(inner, str):
                continue
            chain = [part for _, part in inner.steps] if hasattr(inner, "steps") else [inner]
            for part in reversed(chain):
                own = list(_before(part, own))
            yield from ((int(columns[at]), value) for at, value in own)
    elif kind == "SimpleImputer":
        yield from () if step.add_indicator or np.isnan(step.statistics_).any() else edges
    elif kind in _BY_COLUMN and edges:
        rows: Array = np.zeros((len(edges), step.n_features_in_))
        places = [at for at, _ in edges]
        rows[np.arange(len(edges)), places] = [value for _, value in edges]
        values = step.inverse_transform(rows)[np.arange(len(edges)), places]
        yield from zip(places, values.tolist(), strict=True)
