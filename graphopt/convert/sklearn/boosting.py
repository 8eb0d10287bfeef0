"""Boosters in the clothes of scikit-learn: XGBClassifier, LGBMRegressor and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.convert.boosting import catboost as boosting_catboost
from graphopt.convert.boosting import lightgbm as boosting_lightgbm
from graphopt.convert.boosting import xgboost as boosting_xgboost
from graphopt.convert.boosting.graph import Outcome

_LIBRARIES = ("xgboost", "lightgbm", "catboost")


def library_of(estimator: Any) -> str:
    """Name the package that an estimator's class is of."""
    return type(estimator).__module__.partition(".")[0]


def is_boosted(estimator: Any) -> bool:
    """Whether an estimator is of XGBoost, LightGBM or CatBoost."""
    return library_of(estimator) in _LIBRARIES


def write_booster(
    nodes: Any, features: str, estimator: Any, double: bool
) -> tuple[str, Outcome, int]:
    """Write the sums over an estimator's trees.

    Returns:
        Their name, what becomes of them, and how many there are.
    """
    boosted = _boosted(estimator)
    if isinstance(boosted, boosting_xgboost.Boosted):
        raw = boosting_xgboost.write_sums(nodes, features, boosted)
    elif isinstance(boosted, boosting_lightgbm.Boosted):
        dtype = np.float64 if double else np.float32
        raw = boosting_lightgbm.write_sums(nodes, features, boosted, dtype)
    else:
        raw = boosting_catboost.write_sums(nodes, features, boosted)
    return raw, boosted.outcome, boosted.targets


def booster_splits(estimator: Any) -> list[tuple[int, float]]:
    """Feature and threshold of every split."""
    boosted = _boosted(estimator)
    if isinstance(boosted, boosting_xgboost.Boosted):
        return boosting_xgboost.splits_of(boosted)[0]
    if isinstance(boosted, boosting_lightgbm.Boosted):
        return boosting_lightgbm.splits_of(boosted)[0]
    return boosted.borders


def _boosted(
    estimator: Any,
) -> boosting_xgboost.Boosted | boosting_lightgbm.Boosted | boosting_catboost.Boosted:
    title = f"the {type(estimator).__name__}"
    library = library_of(estimator)
    if library == "xgboost":
        return boosting_xgboost.read(estimator.get_booster(), title)
    if library == "lightgbm":
        return boosting_lightgbm.read(estimator.booster_, title)
    return boosting_catboost.read(estimator, title)
