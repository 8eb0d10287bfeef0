from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, linear_model
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler
from sklearn_estimators import X, Y, converted, interface, outputs

TARGETS: dict[str, Any] = {
    "function": TransformedTargetRegressor(
        linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1
    ),
    "scaler": TransformedTargetRegressor(linear_model.Ridge(), transformer=StandardScaler()),
    "range": TransformedTargetRegressor(linear_model.Ridge(), transformer=MinMaxScaler()),
    "nothing": TransformedTargetRegressor(linear_model.Ridge()),
    "pipeline": TransformedTargetRegressor(
        make_pipeline(StandardScaler(), linear_model.Ridge()), transformer=StandardScaler()
    ),
    "trees": TransformedTargetRegressor(
        ensemble.RandomForestRegressor(3, random_state=0), func=np.sqrt, inverse_func=np.square
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_transformed_back(name: str) -> None:
    estimator = TARGETS[name].fit(X, Y + 0.5)
    model, _ = converted(estimator)
    assert interface(model)["variable"] == ("FLOAT", ["batch", 1])
    (found,) = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(found[:, 0], estimator.predict(X[:7]), rtol=1e-5, atol=1e-5)


def test_last_step_of_a_pipeline() -> None:
    estimator = make_pipeline(StandardScaler(), TARGETS["function"]).fit(X, Y + 0.5)
    model, _ = converted(estimator)
    (found,) = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(found[:, 0], estimator.predict(X[:7]), rtol=1e-5, atol=1e-5)


def test_unknown_way_back_is_refused_by_name() -> None:
    transformer = QuantileTransformer(n_quantiles=10)
    estimator = TransformedTargetRegressor(linear_model.Ridge(), transformer=transformer)
    with pytest.raises(GraphoptError, match="targets of its QuantileTransformer is not known"):
        converted(estimator.fit(X, Y))
