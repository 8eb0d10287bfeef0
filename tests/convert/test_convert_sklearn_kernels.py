from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import svm
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.ensemble import StackingClassifier, VotingClassifier, VotingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeRegressor
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
KERNELS = ["linear", "poly", "rbf", "sigmoid"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", [svm.SVC, svm.NuSVC])
def test_support_vectors_of_two_classes(kind: Any, kernel: str) -> None:
    estimator = kind(kernel=kernel, **({"nu": 0.1} if kind is svm.NuSVC else {}))
    estimator.fit(X, np.where(Y == 1, "yes", "no"))
    model, _ = converted(estimator)
    label, scores = outputs(model, X=X)
    expected = estimator.decision_function(X)
    np.testing.assert_array_equal(label, estimator.predict(X))
    np.testing.assert_allclose(scores[:, 1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores[:, 0], -expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", [svm.SVC, svm.OneClassSVM])
def test_float64_keeps_what_the_parts_of_the_sum_leave(
    kind: Any, kernel: str, tmp_path: Path
) -> None:
    rows = load_iris().data
    estimator = kind(kernel=kernel).fit(rows, Y == 1)
    np.savez(tmp_path / "iris.npz", X=rows)
    model, _ = converted(estimator, data=str(tmp_path / "iris.npz"))
    scores = outputs(model, X=rows)[1]
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores[:, -1], estimator.decision_function(rows), atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_class(kernel: str) -> None:
    estimator = svm.OneClassSVM(kernel=kernel).fit(X)
    model, _ = converted(estimator)
    label, scores = outputs(model, X=X)
    expected = estimator.decision_function(X)
    clear = np.abs(expected) > 1e-9
    np.testing.assert_array_equal(label[clear, 0], estimator.predict(X)[clear])
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("targets", [1, 2])
def test_kernel_ridge(kernel: str, targets: int) -> None:
    rows, values = load_diabetes(return_X_y=True)
    rows = rows.astype(np.float32)
    estimator = KernelRidge(kernel=kernel)
    estimator.fit(rows, values if targets == 1 else np.stack([values, -values], axis=1))
    model, _ = converted(estimator)
    expected = estimator.predict(rows.astype(np.float64)).reshape(len(rows), -1)
    np.testing.assert_allclose(outputs(model, X=rows)[0], expected, rtol=1e-4, atol=1e-3)


def test_support_vectors_inside_of_a_stack() -> None:
    parts = [("line", svm.SVC(kernel="linear")), ("bayes", GaussianNB())]
    estimator = StackingClassifier(parts, cv=2).fit(X, Y == 1)
    model, _ = converted(estimator)
    np.testing.assert_allclose(outputs(model, X=X)[1], estimator.predict_proba(X), atol=1e-5)


def test_weights_of_votes_may_be_a_list() -> None:
    parts = [("line", LogisticRegression(max_iter=500)), ("bayes", GaussianNB())]
    estimator = VotingClassifier(parts, voting="soft", weights=[2, 1]).fit(X, Y)
    model, _ = converted(estimator)
    np.testing.assert_allclose(outputs(model, X=X)[1], estimator.predict_proba(X), atol=1e-5)
    trees = [("line", Ridge()), ("tree", DecisionTreeRegressor(max_depth=3))]
    mean = VotingRegressor(trees, weights=[1, 3]).fit(X, Y)
    model, _ = converted(mean)
    np.testing.assert_allclose(outputs(model, X=X)[0][:, 0], mean.predict(X), atol=1e-5)


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_support_vectors_of_several_classes_that_are_not_scaled(kernel: str, shape: str) -> None:
    rows, targets = load_wine(return_X_y=True)
    estimator = svm.SVC(kernel=kernel, decision_function_shape=shape)
    estimator.fit(rows.astype(np.float32), targets - 1)
    model, _ = converted(estimator)
    label, scores = outputs(model, X=rows.astype(np.float32))
    rows = rows.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(label, estimator.predict(rows))
    np.testing.assert_allclose(scores, estimator.decision_function(rows), rtol=1e-4, atol=1e-4)
