"""Scikit-learn's own values for the outputs of an estimator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.convert.parity import Reference
from graphopt.convert.reasons import first_line
from graphopt.convert.sklearn.inputs import Table
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch


@dataclass(frozen=True)
class Output:
    """An output of the graph.

    Args:
        name: Its name.
        method: The estimator's method that gives it.
        part: Of several targets with classes of their own: which one.
    """

    name: str
    method: str
    part: int | None = None


@dataclass(frozen=True)
class Form:
    """How the graph lays an output out: number of axes, size of the last, dtype."""

    ndim: int
    last: int
    dtype: Any


def reference(
    estimator: Any,
    table: Table,
    wanted: Sequence[Output],
    forms: Sequence[Form],
    source: str,
    names: Sequence[str],
) -> Reference:
    """Scikit-learn's own outputs, laid out as the graph does.

    Args:
        estimator: The estimator as it was loaded.
        table: What it takes.
        wanted: What is compared.
        forms: How the graph lays each of them out.
        source: What messages call the estimator.
        names: The inputs, as the graph ends up calling them.
    """

    def run(batch: Batch) -> Sequence[Array]:
        own = {item.name: batch[name] for item, name in zip(table.inputs, names, strict=True)}
        return [
            _laid_out(values_of(estimator, table, item, own, source), form)
            for item, form in zip(wanted, forms, strict=True)
        ]

    return run


def values_of(estimator: Any, table: Table, item: Output, batch: Batch, source: str) -> Any:
    """Scikit-learn's own values of an output.

    Raises:
        GraphoptError: The estimator does not take the samples.
    """
    samples = table.joined(batch)
    method = getattr(estimator, item.method)
    with warnings.catch_warnings():
        # Names of columns that the estimator was or was not fitted with, and the like.
        warnings.simplefilter("ignore")
        try:
            try:
                found = method(samples)
            except ValueError:
                if not isinstance(samples, np.ndarray) or samples.dtype != np.float64:
                    raise
                # Some estimators fitted on float32 compute in nothing else.
                found = method(samples.astype(np.float32))
        except Exception as error:
            # An estimator, or a function inside of one, may raise anything.
            raise GraphoptError(
                f"{item.method} fails on the example inputs: {first_line(error)}",
                file=source,
                fix="give samples that it takes with --data",
            ) from error
    if item.part is not None:
        found = found[item.part]
    return found.toarray() if hasattr(found, "toarray") else np.asarray(found)


def _laid_out(values: Array, form: Form) -> Array:
    if values.ndim == 1 and form.ndim == 2:
        # Of two classes scikit-learn gives the score of the second only.
        values = (
            np.stack([np.negative(values), values], axis=1) if form.last == 2 else values[:, None]
        )
    if values.ndim == 2 and form.ndim == 1 and values.shape[1] == 1:
        values = values[:, 0]
    return values.astype(form.dtype)
