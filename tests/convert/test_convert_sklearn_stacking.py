from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, linear_model, svm
from sklearn_estimators import LETTERS, X, Y, converted, interface, outputs

MEMBERS: dict[str, list[tuple[str, Any]]] = {
    "scores and probabilities": [
        ("svm", svm.SVC()),
        ("line", linear_model.LogisticRegression(max_iter=50)),
    ],
    "scores": [("svm", svm.LinearSVC()), ("ridge", linear_model.RidgeClassifier())],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_scores_of_two_classes_are_stacked(name: str, passthrough: bool) -> None:
    final = linear_model.LogisticRegression(max_iter=50)
    estimator = ensemble.StackingClassifier(MEMBERS[name], final, cv=2, passthrough=passthrough)
    estimator.fit(X, LETTERS[Y % 2])
    model, _ = converted(estimator)
    assert interface(model)["label"] == ("STRING", ["batch"])
    for batch in (1, 7):
        label, probabilities = outputs(model, X=X[50 : 50 + batch].astype(np.float32))
        expected = estimator.predict_proba(X[50 : 50 + batch])
        np.testing.assert_allclose(probabilities, expected, atol=2e-6)
        assert (label == estimator.predict(X[50 : 50 + batch])).all()
