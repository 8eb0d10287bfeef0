from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import CheckFailed

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn_estimators import X, Y, converted

ROWS = 1100


def test_all_given_samples_are_compared(tmp_path: Path) -> None:
    rows = np.ones((ROWS, 2), np.float32)
    estimator = make_pipeline(FunctionTransformer(np.square), FunctionTransformer(np.sqrt))
    estimator.fit(rows)
    np.savez(tmp_path / "rows.npz", X=rows)
    converted(estimator, data=str(tmp_path / "rows.npz"))
    # The square of the last sample is beyond float32.
    rows[-1] = 1e30
    np.savez(tmp_path / "rows.npz", X=rows)
    with pytest.raises(CheckFailed, match=f"on {ROWS} samples"):
        converted(estimator, data=str(tmp_path / "rows.npz"))


def test_samples_on_thresholds_are_compared_beside_given_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = DecisionTreeClassifier(random_state=0).fit(X, Y)
    np.savez(tmp_path / "rows.npz", X=X[:50].astype(np.float32))
    converted(estimator, data=str(tmp_path / "rows.npz"))
    rounded = "graphopt.convert.boosting.trees._as_float32"
    monkeypatch.setattr(rounded, lambda value, mode: float(np.float32(value) - np.float32(1e-5)))
    with pytest.raises(CheckFailed):
        converted(estimator, data=str(tmp_path / "rows.npz"))


def test_a_saturated_probability_is_no_tie() -> None:
    estimator = LogisticRegression(max_iter=500, C=1e6).fit(1000 * X, Y)
    _, notes = converted(estimator)
    assert not any("not compared" in note for note in notes)
