from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer, StandardScaler
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
MISSING = X.copy()
MISSING[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan


@pytest.mark.parametrize(
    "imputer",
    [
        SimpleImputer(add_indicator=True),
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()),
        ColumnTransformer([("some", SimpleImputer(add_indicator=True), [0, 2])]),
    ],
    ids=["alone", "scaled", "columns"],
)
@pytest.mark.parametrize("last", [False, True])
def test_indicators_of_missing_values(imputer: Any, last: bool) -> None:
    if last:
        estimator: Any = imputer.fit(MISSING)
        model, _ = converted(estimator)
        found, expected = outputs(model, X=MISSING)[0], estimator.transform(MISSING)
    else:
        estimator = make_pipeline(imputer, LogisticRegression(max_iter=500)).fit(MISSING, Y)
        model, _ = converted(estimator)
        found, expected = outputs(model, X=MISSING)[1], estimator.predict_proba(MISSING)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_neighbours_of_missing_values_are_refused_by_name() -> None:
    estimator = make_pipeline(KNNImputer(), LogisticRegression(max_iter=500)).fit(MISSING, Y)
    with pytest.raises(GraphoptError, match="KNNImputer"):
        converted(estimator)


@pytest.mark.parametrize("encode", ["onehot", "onehot-dense", "ordinal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore")
def test_bins_and_values_on_their_edges(encode: str, dtype: Any, tmp_path: Path) -> None:
    bins = KBinsDiscretizer(4, encode=encode)
    estimator = make_pipeline(bins, LogisticRegression(max_iter=500)).fit(X, Y)
    np.savez(tmp_path / "iris.npz", X=X.astype(dtype))
    model, _ = converted(estimator, data=str(tmp_path / "iris.npz"))
    edges = [np.resize(own, 9) for own in estimator.steps[0][1].bin_edges_]
    rows = np.concatenate([X, np.stack(edges, axis=1)]).astype(dtype)
    found = outputs(model, X=rows)[1]
    np.testing.assert_allclose(found, estimator.predict_proba(rows), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_quantiles_that_float32_cannot_tell_apart() -> None:
    rows, targets = load_diabetes(return_X_y=True)
    estimator = make_pipeline(QuantileTransformer(n_quantiles=50), Ridge()).fit(rows, targets)
    model, _ = converted(estimator)
    narrow = rows.astype(np.float32)
    expected = estimator.predict(narrow.astype(np.float64))
    np.testing.assert_allclose(outputs(model, X=narrow)[0].reshape(-1), expected, rtol=1e-4)
