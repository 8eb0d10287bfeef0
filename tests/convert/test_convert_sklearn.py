from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, linear_model, neighbors, neural_network, svm
from sklearn.compose import ColumnTransformer
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    StandardScaler,
)
from sklearn_estimators import LETTERS, X, Y, converted, interface, outputs

CLASSIFIERS = {
    "logistic": linear_model.LogisticRegression(max_iter=50),
    "forest": ensemble.RandomForestClassifier(7, random_state=0),
    "extra": ensemble.ExtraTreesClassifier(7, random_state=0),
    "boosting": ensemble.GradientBoostingClassifier(n_estimators=3, random_state=0),
    "histogram": ensemble.HistGradientBoostingClassifier(max_iter=3),
    "neighbours": neighbors.KNeighborsClassifier(),
    "mlp": neural_network.MLPClassifier((16,), max_iter=30, random_state=0),
    "scaled": make_pipeline(StandardScaler(), linear_model.LogisticRegression(max_iter=50)),
    "voting": ensemble.VotingClassifier(
        [
            ("line", linear_model.LogisticRegression(max_iter=50)),
            ("trees", ensemble.RandomForestClassifier(5, random_state=0)),
        ],
        voting="soft",
    ),
    "stacking": ensemble.StackingClassifier(
        [
            ("line", linear_model.LogisticRegression(max_iter=50)),
            ("trees", ensemble.RandomForestClassifier(5, random_state=0)),
        ],
        cv=2,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("labels", ["numbers", "strings"])
def test_classifier_gives_labels_and_plain_probabilities(name: str, labels: str) -> None:
    estimator = CLASSIFIERS[name].fit(X, Y if labels == "numbers" else LETTERS[Y])
    model, _ = converted(estimator)
    kind = "INT64" if labels == "numbers" else "STRING"
    assert interface(model) == {
        "X": ("FLOAT", ["batch", 64]),
        "label": (kind, ["batch"]),
        "probabilities": ("FLOAT", ["batch", 10]),
    }
    assert not any(node.op_type == "ZipMap" for node in model.graph)
    for batch in (1, 3, 7):
        samples = X[50 : 50 + batch]
        label, probabilities = outputs(model, X=samples.astype(np.float32))
        expected = estimator.predict_proba(samples)
        np.testing.assert_allclose(probabilities, expected, atol=2e-6)
        first, second = np.sort(expected, axis=1)[:, :-3:-1].T
        decided = first - second > 1e-6
        assert decided.any()
        assert (label == estimator.predict(samples))[decided].all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (svm.SVC(), 10),
        (svm.SVC(), 2),
        (svm.LinearSVC(), 10),
        (make_pipeline(StandardScaler(), svm.LinearSVC()), 10),
        (linear_model.RidgeClassifier(), 3),
        (linear_model.SGDClassifier(random_state=0), 2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_scores_are_not_called_probabilities(estimator: Any, classes: int) -> None:
    estimator.fit(X, Y % classes)
    model, _ = converted(estimator)
    label, scores = outputs(model, X=X[:7].astype(np.float32))
    assert [value.name for value in model.graph.outputs] == ["label", "scores"]
    expected = estimator.decision_function(X[:7])
    if expected.ndim == 1:
        expected = np.stack([-expected, expected], axis=1)[:, -scores.shape[1] :]
    # Sums over 64 features in float32: a few of its roundings of the largest score.
    bound = 8 * 2.0**-23 * np.abs(expected).max()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=bound)
    assert (label == estimator.predict(X[:7])).all()


@pytest.mark.parametrize(
    "estimator",
    [
        linear_model.LinearRegression(),
        ensemble.RandomForestRegressor(5, random_state=0),
        ensemble.HistGradientBoostingRegressor(max_iter=3, loss="poisson"),
        neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0),
        svm.SVR(),
        ensemble.StackingRegressor(
            [("line", linear_model.LinearRegression()), ("near", neighbors.KNeighborsRegressor())],
            cv=2,
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_regressor_gives_a_variable(estimator: Any) -> None:
    estimator.fit(X, Y + 0.5)
    model, _ = converted(estimator)
    assert interface(model)["variable"] == ("FLOAT", ["batch", 1])
    (found,) = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(found[:, 0], estimator.predict(X[:7]), rtol=1e-4, atol=1e-4)


def test_several_targets_have_probabilities_each() -> None:
    targets = np.stack([Y % 2, Y % 3], axis=1)
    for estimator in (
        ensemble.RandomForestClassifier(3, random_state=0),
        MultiOutputClassifier(linear_model.LogisticRegression(max_iter=500, tol=1e-2)),
        neighbors.KNeighborsClassifier(),
    ):
        estimator.fit(X, targets)
        model, _ = converted(estimator)
        names = [value.name for value in model.graph.outputs]
        assert names == ["label", "probabilities_0", "probabilities_1"]
        _, *found = outputs(model, X=X[:7].astype(np.float32))
        for array, expected in zip(found, estimator.predict_proba(X[:7]), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)


def test_neighbours_of_several_numbers() -> None:
    estimator = neighbors.KNeighborsRegressor().fit(X, np.stack([Y, 2.5 * Y], axis=1))
    model, _ = converted(estimator)
    (found,) = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(found, estimator.predict(X[:7]), rtol=1e-6)


def test_categories_of_histogram_boosting_and_missing_values_are_kept() -> None:
    table = np.stack([X[:, 20] % 7, X[:, 30], X[:, 28] % 9], axis=1)
    table[::9, 0] = np.nan
    table[::7, 1] = np.nan
    estimator = ensemble.HistGradientBoostingClassifier(max_iter=5, categorical_features=[0, 2])
    estimator.fit(table, Y % 3)
    model, _ = converted(estimator)
    strange = np.array([[100, 1, 3], [np.nan, np.nan, np.nan], [2, 5, 8]])
    samples = np.concatenate([table, strange]).astype(np.float32)
    _, probabilities = outputs(model, X=samples)
    np.testing.assert_allclose(probabilities, estimator.predict_proba(samples), atol=1e-6)


def test_features_on_a_threshold_fall_on_its_side() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3))
    estimator = ensemble.HistGradientBoostingRegressor(max_iter=20).fit(rows, rows.sum(axis=1))
    model, _ = converted(estimator)
    splits = np.concatenate(
        [p.nodes["num_threshold"][p.nodes["is_leaf"] == 0] for (p,) in estimator._predictors]
    ).astype(np.float32)
    near = np.concatenate(
        [splits, np.nextafter(splits, np.float32(9)), np.nextafter(splits, np.float32(-9))]
    )
    samples = np.stack([near, near, near], axis=1)
    (found,) = outputs(model, X=samples)
    np.testing.assert_allclose(found[:, 0], estimator.predict(samples), atol=1e-5)


def test_step_that_cannot_be_written_is_named() -> None:
    estimator = make_pipeline(FunctionTransformer(np.cbrt), linear_model.Ridge()).fit(X, Y)
    with pytest.raises(GraphoptError, match=r"FunctionTransformer \(step 'functiontransformer' of"):
        converted(estimator)
    nested = ensemble.VotingRegressor(
        [("own", make_pipeline(FunctionTransformer(np.nan_to_num), linear_model.Ridge()))]
    ).fit(X, Y)
    with pytest.raises(GraphoptError, match="estimator 'own', step 'functiontransformer'"):
        converted(nested)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_booster_at_the_end_of_a_pipeline(library: str) -> None:
    package = pytest.importorskip(library)
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "xgboost": lambda: (
            package.XGBClassifier(n_estimators=4, n_jobs=1),
            package.XGBRegressor(n_estimators=4, n_jobs=1),
        ),
        "lightgbm": lambda: (
            package.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1),
            package.LGBMRegressor(n_estimators=4, n_jobs=1, verbose=-1),
        ),
        "catboost": lambda: (
            package.CatBoostClassifier(iterations=4, verbose=0, allow_writing_files=False),
            package.CatBoostRegressor(iterations=4, verbose=0, allow_writing_files=False),
        ),
    }
    classifier, regressor = makers[library]()
    halves = ColumnTransformer([("kept", "passthrough", list(range(64)))])
    target = Y if library == "xgboost" else LETTERS[Y]
    for pipeline in (make_pipeline(halves, classifier), classifier):
        pipeline.fit(X, target)
        model, _ = converted(pipeline)
        assert list(interface(model)) == ["X", "label", "probabilities"]
        label, probabilities = outputs(model, X=X[:7].astype(np.float32))
        np.testing.assert_allclose(probabilities, pipeline.predict_proba(X[:7]), atol=1e-6)
        assert (label == np.ravel(pipeline.predict(X[:7]))).all()
    pipeline = make_pipeline(halves, regressor).fit(X, Y)
    model, _ = converted(pipeline)
    (found,) = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(found[:, 0], pipeline.predict(X[:7]), rtol=1e-5, atol=1e-5)
