from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.datasets import load_iris
from sklearn.feature_selection import RFE, RFECV, SelectFromModel, SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
LOGISTIC = LogisticRegression(max_iter=500)
SEARCH = GridSearchCV(RFE(LOGISTIC), {"n_features_to_select": [1, 2]}, cv=2)


@pytest.mark.parametrize(
    "estimator",
    [
        RFE(LOGISTIC, n_features_to_select=2),
        RFECV(LOGISTIC, cv=2),
        make_pipeline(StandardScaler(), RFE(LOGISTIC, n_features_to_select=2)),
        make_pipeline(RFE(LOGISTIC, n_features_to_select=2), LOGISTIC),
        make_pipeline(SelectFromModel(LOGISTIC), LOGISTIC),
        SEARCH,
        make_pipeline(StandardScaler(), SEARCH),
        OneVsRestClassifier(RFE(LOGISTIC, n_features_to_select=2)),
    ],
    ids=["last", "validated", "behind", "before", "model", "search", "search behind", "one"],
)
def test_selectors_that_predict(estimator: Any) -> None:
    estimator.fit(X, Y)
    model, _ = converted(estimator)
    label, probabilities = outputs(model, X=X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-5)


def test_a_selector_of_a_regressor() -> None:
    estimator = RFE(Ridge(), n_features_to_select=2).fit(X, Y)
    model, _ = converted(estimator)
    np.testing.assert_allclose(outputs(model, X=X)[0].ravel(), estimator.predict(X), atol=1e-5)


def test_the_first_column_alone() -> None:
    rows = X.copy()
    rows[:, 1:] = 0
    rows[0, 1:] = 1
    rows[:, 0] = Y
    estimator = SelectKBest(k=1).fit(rows, Y)
    assert estimator.get_support().tolist() == [True, False, False, False]
    model, _ = converted(estimator)
    np.testing.assert_array_equal(outputs(model, X=rows)[0], rows[:, :1])
