from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, tree
from sklearn.datasets import load_iris
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
MISSING = X.copy()
MISSING[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
EMPTY = np.full((2, 4), np.nan, np.float32)

WITH_MISSING = {
    "tree": tree.DecisionTreeClassifier(random_state=0),
    "forest": ensemble.RandomForestClassifier(5, random_state=0),
    "histogram": ensemble.HistGradientBoostingClassifier(max_iter=5),
    "bagging": ensemble.BaggingClassifier(
        ensemble.HistGradientBoostingClassifier(max_iter=3), n_estimators=2, random_state=0
    ),
}


@pytest.mark.parametrize("name", WITH_MISSING)
def test_missing_values_go_where_the_trees_send_them(name: str) -> None:
    estimator = WITH_MISSING[name].fit(MISSING, Y)
    model, _ = converted(estimator)
    for rows in (MISSING, EMPTY):
        label, probabilities = outputs(model, X=rows)
        np.testing.assert_array_equal(label, estimator.predict(rows))
        np.testing.assert_allclose(probabilities, estimator.predict_proba(rows), atol=1e-6)


@pytest.mark.parametrize("kind", [tree.DecisionTreeRegressor, ensemble.RandomForestRegressor])
def test_missing_values_in_regressors(kind: Any) -> None:
    estimator = kind(random_state=0).fit(MISSING, np.stack([Y, -Y], axis=1))
    model, _ = converted(estimator)
    np.testing.assert_allclose(outputs(model, X=MISSING)[0], estimator.predict(MISSING), atol=1e-6)


def test_trees_fitted_without_missing_values_take_them() -> None:
    estimator = ensemble.RandomForestClassifier(5, random_state=0).fit(X, Y)
    model, _ = converted(estimator)
    found = outputs(model, X=MISSING)[1]
    np.testing.assert_allclose(found, estimator.predict_proba(MISSING), atol=1e-6)


def on_thresholds(trees: list[Any]) -> Any:
    rows = []
    for grown in trees:
        for feature, threshold in zip(grown.tree_.feature, grown.tree_.threshold, strict=True):
            if feature >= 0:
                row = X[len(rows) % len(X)].copy()
                row[feature] = threshold
                rows.append(row)
    return np.array(rows, np.float32)


@pytest.mark.parametrize("targets", [[Y > 0, Y > 1], [Y, (Y + 1) % 3]], ids=["labels", "classes"])
@pytest.mark.parametrize(
    "estimator",
    [tree.DecisionTreeClassifier(random_state=0), ensemble.ExtraTreesClassifier(5, random_state=0)],
    ids=["tree", "forest"],
)
def test_several_targets_decide_at_thresholds_as_before(targets: Any, estimator: Any) -> None:
    estimator = estimator.fit(X, np.stack(targets, axis=1).astype(int))
    model, _ = converted(estimator)
    rows = on_thresholds(getattr(estimator, "estimators_", [estimator]))
    label, *probabilities = outputs(model, X=rows)
    np.testing.assert_array_equal(label, estimator.predict(rows))
    for found, expected in zip(probabilities, estimator.predict_proba(rows), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_isolation_forest_takes_missing_values(share: float) -> None:
    estimator = ensemble.IsolationForest(n_estimators=10, max_features=share, random_state=0).fit(X)
    model, _ = converted(estimator)
    label, scores = outputs(model, X=MISSING)
    np.testing.assert_array_equal(label[:, 0], estimator.predict(MISSING))
    np.testing.assert_allclose(scores[:, 0], estimator.decision_function(MISSING), atol=1e-6)
