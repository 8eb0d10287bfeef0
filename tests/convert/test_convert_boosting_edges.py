"""Boosted trees where rounding and infinities show: on thresholds, beside them and beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.convert import convert
from graphopt.runtime.session import Session

load_diabetes = pytest.importorskip("sklearn.datasets").load_diabetes

X, Y = load_diabetes(return_X_y=True)
_RANDOM = np.random.default_rng(0)
GAPS = X.astype(np.float32)
GAPS[_RANDOM.random(X.shape) < 0.2] = np.nan
INFINITE = GAPS.copy()
INFINITE[_RANDOM.random(X.shape) < 0.1] = np.inf
INFINITE[_RANDOM.random(X.shape) < 0.1] = -np.inf
GRADES = np.clip(Y // 60, 0, 4).astype(int)


def beside_thresholds(path: Path, features: Any) -> Any:
    """Real samples with one feature on a threshold, on a neighbour of it, infinite, or missing."""
    model = convert(str(path)).model
    (trees,) = [node for node in model.graph if node.op_type == "TreeEnsembleRegressor"]
    values = np.array(trees.attributes["nodes_values"].as_floats(), np.float32)
    columns = np.array(trees.attributes["nodes_featureids"].as_ints())
    inner = np.array(trees.attributes["nodes_modes"].as_strings()) != "LEAF"
    moved = [features]
    for column, value in set(zip(columns[inner], values[inner], strict=True)):
        up, down = (np.nextafter(value, np.float32(side)) for side in (np.inf, -np.inf))
        rows = features[_RANDOM.integers(0, len(features), 6)].copy()
        rows[:, column] = [value, up, down, np.inf, -np.inf, np.nan]
        moved.append(rows)
    return np.concatenate(moved)


def check(path: Path, features: Any, predict: Any) -> None:
    samples = beside_thresholds(path, features)
    (found,) = Session(convert(str(path)).model).run({"X": samples}).values()
    np.testing.assert_allclose(found[:, 0], predict(samples), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "settings"),
    [
        (GAPS, {}),
        (GAPS, {"objective": "poisson"}),
        (GAPS, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}),
        (INFINITE, {}),
        (INFINITE, {"use_missing": False}),
        (np.where(np.abs(X) < 0.02, 0, X), {"zero_as_missing": True}),
    ],
    ids=["gaps", "poisson", "forest", "infinite", "no missing", "zeros"],
)
def test_lightgbm_goes_where_it_went(
    tmp_path: Path, features: Any, settings: dict[str, Any]
) -> None:
    """Splits between a value and a missing one have an infinite threshold, which JSON has not."""
    lightgbm = pytest.importorskip("lightgbm")
    common = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 3, "deterministic": True}
    fitted = lightgbm.train({**common, **settings}, lightgbm.Dataset(features, Y), 20)
    path = tmp_path / "model.txt"
    fitted.save_model(path)
    check(path, features.astype(np.float32), fitted.predict)


def test_lightgbm_ranks(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(GAPS, GRADES, group=[42] * 10 + [22])
    settings = {"objective": "lambdarank", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 3}
    fitted = lightgbm.train(settings, data, 20)
    path = tmp_path / "model.txt"
    fitted.save_model(path)
    check(path, GAPS, fitted.predict)
