"""What sums over support vectors may differ by: they cancel, and their parts are large."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.convert.sklearn.outputs import last_of
from graphopt.runtime.difference import Tolerance

_EPS = 2.0**-52
_ROUNDINGS = 128
"""As of any output in `difference`, but of the parts of a sum and not of the sum."""
_BOUNDED = ("rbf", "sigmoid")
_KINDS = ("NuSVC", "OneClassSVM", "SVC")


def allowed_of(estimator: Any, samples: Any) -> dict[str, Tolerance]:
    """Say what float64 scores of support vectors may differ by, by output.

    A dot product of float64 is off by eps of the magnitudes of its parts, whatever they add up to
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Those of support vectors
    may be thousands of times the score.

    Args:
        estimator: A fitted one.
        samples: What it takes.
    """
    last = last_of(estimator)
    if type(last).__name__ not in _KINDS or last.kernel not in (*_BOUNDED, "linear", "poly"):
        return {}
    while hasattr(estimator, "best_estimator_") or type(estimator).__name__ == "Pipeline":
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
            continue
        if len(estimator.steps) > 1:
            samples = estimator[:-1].transform(samples)
        estimator = estimator.steps[-1][1]
    largest = 1.0
    if last.kernel not in _BOUNDED:
        vectors = last.support_vectors_
        dense = np.abs(vectors.toarray() if hasattr(vectors, "toarray") else vectors)
        rows = samples.toarray() if hasattr(samples, "toarray") else np.asarray(samples, np.float64)
        largest = float((np.abs(rows) @ dense.T).max(initial=0))
        if last.kernel == "poly":
            largest = (last._gamma * largest + abs(last.coef0)) ** last.degree
    duals = last.dual_coef_
    total = float(np.abs(duals.toarray() if hasattr(duals, "toarray") else duals).sum())
    parts = total * largest + float(np.abs(last.intercept_).max())
    return {"scores": Tolerance(atol=_EPS * _ROUNDINGS * parts, rtol=_EPS * _ROUNDINGS)}
