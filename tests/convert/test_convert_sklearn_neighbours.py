from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import neighbors
from sklearn.datasets import load_iris
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
FAR = X * np.float32(100)
LEVEL = [75]
"""Samples that have two neighbours as near as each other, the fifth and the sixth."""
NAMES = np.array(["setosa", "versicolor", "virginica"])


def compared(model: Any, estimator: Any, rows: Any) -> None:
    label, probabilities = outputs(model, X=rows)
    np.testing.assert_array_equal(label, estimator.predict(rows))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(rows), atol=1e-6)


@pytest.mark.parametrize("labels", ["numbers", "names"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_sample_of_the_fit_counts_alone(p: int, labels: str, tmp_path: Path) -> None:
    estimator = neighbors.KNeighborsClassifier(5, weights="distance", p=p)
    estimator.fit(X, Y if labels == "numbers" else NAMES[Y])
    np.savez(tmp_path / "iris.npz", X=X)
    model, _ = converted(estimator, data=str(tmp_path / "iris.npz"))
    compared(model, estimator, X)


def test_weighted_neighbours_of_several_targets() -> None:
    targets = np.stack([Y, Y > 0], axis=1).astype(int)
    estimator = neighbors.KNeighborsClassifier(weights="distance").fit(X, targets)
    model, _ = converted(estimator)
    label, *probabilities = outputs(model, X=X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    for found, expected in zip(probabilities, estimator.predict_proba(X), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.filterwarnings("ignore")
def test_means_of_neighbours(weights: str, targets: int) -> None:
    values = X[:, :targets] if targets > 1 else X[:, 0]
    for estimator in (
        neighbors.KNeighborsRegressor(weights=weights),
        neighbors.RadiusNeighborsRegressor(1.0, weights=weights),
    ):
        model, _ = converted(estimator.fit(X, values))
        for rows in (X, FAR):
            found = outputs(model, X=rows)[0].reshape(len(X), -1)
            expected = estimator.predict(rows).reshape(len(X), -1)
            level = LEVEL if hasattr(estimator, "n_neighbors") and estimator.n_neighbors else []
            np.testing.assert_allclose(
                np.delete(found, level, axis=0), np.delete(expected, level, axis=0), rtol=1e-5
            )


def test_samples_with_level_neighbours_are_left_out(tmp_path: Path) -> None:
    estimator = neighbors.KNeighborsRegressor().fit(X, X[:, 0])
    np.savez(tmp_path / "iris.npz", X=X)
    _, notes = converted(estimator, data=str(tmp_path / "iris.npz"))
    assert any("150" in note and "two neighbours" in note for note in notes)


def test_level_neighbours_count_where_their_classes_are_the_same(tmp_path: Path) -> None:
    rows = load_iris().data
    estimator = neighbors.KNeighborsClassifier().fit(rows, NAMES[Y])
    np.savez(tmp_path / "iris.npz", X=rows)
    model, notes = converted(estimator, data=str(tmp_path / "iris.npz"))
    (note,) = (note for note in notes if "of 150 samples" in note)
    left_out = int(note.split()[0])
    distances = np.round(((rows[:, None] - rows) ** 2).sum(axis=2), 9)
    fifth, sixth = np.sort(distances, axis=1)[:, 4:6].T
    ambiguous = [
        len({*Y[own == last]}) > 1
        for own, last, following in zip(distances, fifth, sixth, strict=True)
        if last == following
    ]
    assert 0 < left_out == sum(ambiguous) < len(ambiguous)
    assert "two neighbours with other targets" in note
    _, found = outputs(model, X=rows)
    apart = (found != estimator.predict_proba(rows)).any(axis=1)
    assert np.count_nonzero(apart) <= left_out


@pytest.mark.parametrize("outlier", [1, -1])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.filterwarnings("ignore")
def test_no_neighbour_within_the_radius(weights: str, outlier: int) -> None:
    estimator = neighbors.RadiusNeighborsClassifier(
        0.5, weights=weights, outlier_label=outlier
    ).fit(X, Y)
    model, _ = converted(estimator)
    compared(model, estimator, X)
    compared(model, estimator, FAR)


def test_local_outliers_of_samples_close_to_each_other() -> None:
    estimator = neighbors.LocalOutlierFactor(novelty=True).fit(X)
    model, _ = converted(estimator)
    found = outputs(model, X=X)[1][:, 0]
    np.testing.assert_allclose(found, estimator.decision_function(X), rtol=1e-5, atol=1e-6)
