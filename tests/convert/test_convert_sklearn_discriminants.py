from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
CLASSES = {"three": Y, "two": (Y == 1).astype(int), "names": np.array(["a", "b", "c"])[Y]}

CLASSIFIERS = {
    "linear": LinearDiscriminantAnalysis(),
    "linear, lsqr": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "quadratic": QuadraticDiscriminantAnalysis(),
    "centroids": NearestCentroid(),
    "centroids with priors": NearestCentroid(priors="empirical"),
    "centroids by manhattan": NearestCentroid(metric="manhattan"),
    "prior": DummyClassifier(),
    "most frequent": DummyClassifier(strategy="most_frequent"),
}


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore")
def test_classifier(name: str, classes: str) -> None:
    estimator = CLASSIFIERS[name].fit(X, CLASSES[classes])
    model, _ = converted(estimator)
    label, *scores = outputs(model, X=X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(scores[0], estimator.predict_proba(X), rtol=1e-4, atol=1e-6)


def test_the_strategy_of_a_dummy_is_random() -> None:
    with pytest.raises(GraphoptError, match="random"):
        converted(DummyClassifier(strategy="stratified").fit(X, Y))


def test_dummy_regressor() -> None:
    model, _ = converted(DummyRegressor(strategy="median").fit(X, X[:, 1]))
    np.testing.assert_allclose(outputs(model, X=X)[0].ravel(), np.full(len(X), np.median(X[:, 1])))


@pytest.mark.parametrize("solver", ["svd", "eigen"])
def test_discriminants_as_features(solver: str) -> None:
    estimator = make_pipeline(
        LinearDiscriminantAnalysis(solver=solver, n_components=1), GaussianNB()
    )
    model, _ = converted(estimator.fit(X, Y))
    found = outputs(model, X=X)[1]
    np.testing.assert_allclose(found, estimator.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.filterwarnings("ignore")
def test_perceptron_of_several_labels(activation: str) -> None:
    targets: Any = np.stack([Y > 0, Y > 1], axis=1).astype(int)
    estimator = MLPClassifier((8, 4), activation=activation, max_iter=100, random_state=0)
    model, _ = converted(estimator.fit(X, targets))
    label, probabilities = outputs(model, X=X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), atol=1e-6)
