from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn_estimators import converted, outputs

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])
SCALES = (1, 0.1, -3, 1000)
"""What samples are multiplied by: far from those of the fit, float32 saturates."""


def assert_alike(estimator: Any, model: Any, rows: Any) -> None:
    label, scores = outputs(model, X=rows)
    # Given float32, some estimators compute in it.
    rows = rows.astype(np.float64)
    differs = np.flatnonzero(np.atleast_2d(label.T != estimator.predict(rows).T).any(axis=0))
    proper = hasattr(estimator, "predict_proba")
    expected = estimator.predict_proba(rows) if proper else estimator.decision_function(rows)
    # Both of two classes may be as probable as a float64 can tell.
    first = np.sort(expected[differs], axis=1) if expected.ndim == 2 else expected[differs, None]
    np.testing.assert_allclose(first[:, -1], first[:, -2:][:, 0], rtol=1e-12)
    if expected.ndim == 1:
        expected = np.stack([-expected, expected], axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


ESTIMATORS = {
    "sgd, log_loss": SGDClassifier(loss="log_loss", random_state=0),
    "sgd, modified_huber": SGDClassifier(loss="modified_huber", random_state=0),
    "sigmoid": CalibratedClassifierCV(LinearSVC(), cv=2),
    "sigmoid of a pipeline": CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LogisticRegression()), cv=2
    ),
    "isotonic": CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=2),
    "isotonic tree": CalibratedClassifierCV(
        DecisionTreeClassifier(max_depth=2), method="isotonic", cv=2
    ),
    "rest, logistic": OneVsRestClassifier(LogisticRegression()),
    "rest, linear": OneVsRestClassifier(LinearSVC()),
    "rest, tree": OneVsRestClassifier(DecisionTreeClassifier(max_depth=2, random_state=0)),
    "one, logistic": OneVsOneClassifier(LogisticRegression()),
    "one, linear": OneVsOneClassifier(LinearSVC()),
    "one, bayes": OneVsOneClassifier(GaussianNB()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", ["three", "two", "names"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_labels_are_those_that_predict_compares(name: str, classes: str) -> None:
    targets = {"three": Y, "two": (Y == 1).astype(int), "names": NAMES[Y]}[classes]
    estimator = ESTIMATORS[name].fit(X, targets)
    model, _ = converted(estimator)
    # Scalers of ONNX give float32.
    scales = SCALES[:2] if "bayes" in name or "pipeline" in name else SCALES
    for scale in scales:
        assert_alike(estimator, model, X * np.float32(scale))


@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
def test_scores_of_thousands_do_not_saturate(loss: str) -> None:
    rows, targets = load_wine(return_X_y=True)
    rows = rows.astype(np.float32)
    estimator = SGDClassifier(loss=loss, random_state=0).fit(rows, targets)
    model, notes = converted(estimator)
    assert_alike(estimator, model, rows)
    assert not any("not compared" in note for note in notes)


@pytest.mark.parametrize("inner", [LogisticRegression(max_iter=300), LinearSVC(), GaussianNB()])
def test_several_labels_by_one_classifier_each(inner: Any) -> None:
    estimator = OneVsRestClassifier(inner).fit(X, np.stack([Y > 0, Y > 1], axis=1).astype(int))
    model, _ = converted(estimator)
    assert_alike(estimator, model, X)
