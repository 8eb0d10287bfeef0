"""Trees behind scalers: integers that scaling puts on thresholds."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import CheckFailed

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn_estimators import converted, outputs

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 9, (300, 4)).astype(float)
Y = ((X[:, 0] > 3) ^ (X[:, 1] * X[:, 2] > 12)).astype(int)
MISSING = np.where(GENERATOR.random(X.shape) < 0.1, np.nan, X)
FOREST = ensemble.RandomForestClassifier(20, random_state=0)
TREE = tree.DecisionTreeClassifier(random_state=0)

BEHIND: dict[str, tuple[Any, ...]] = {
    "forest": (StandardScaler(), FOREST),
    "tree": (MinMaxScaler(), TREE),
    "regressor": (StandardScaler(), ensemble.GradientBoostingRegressor(random_state=0)),
    "gradients": (StandardScaler(), ensemble.GradientBoostingClassifier(random_state=0)),
    "histograms": (StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=20)),
    "adaptive": (StandardScaler(), ensemble.AdaBoostClassifier(TREE, n_estimators=5)),
    "calibrated": (StandardScaler(), CalibratedClassifierCV(FOREST, cv=2)),
    "projected": (StandardScaler(), PCA(3), FOREST),
    "powers": (PolynomialFeatures(2), StandardScaler(), FOREST),
    "bins": (StandardScaler(), KBinsDiscretizer(4), LogisticRegression()),
    "imputed": (SimpleImputer(), StandardScaler(), FOREST),
}


def agree(estimator: Any, found: list[Any], rows: Any) -> None:
    np.testing.assert_allclose(found[0].reshape(-1), estimator.predict(rows), 1e-5, 1e-6)
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(found[1], estimator.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("dtype", [None, "float64", "int64"])
@pytest.mark.filterwarnings("ignore")
def test_integers_fall_on_the_same_side(name: str, dtype: str | None, tmp_path: Path) -> None:
    estimator = make_pipeline(*BEHIND[name]).fit(MISSING if name == "imputed" else X, Y)
    options = {}
    if dtype is not None:
        np.savez(tmp_path / "rows.npz", X=X.astype(dtype))
        options["data"] = str(tmp_path / "rows.npz")
    model, notes = converted(estimator, **options)
    agree(estimator, outputs(model, X=X.astype(dtype or "float32")), X)
    assert not [note for note in notes if "float32" in note]


def test_what_is_missing_is_filled_in_before_trees() -> None:
    estimator = make_pipeline(SimpleImputer(), StandardScaler(), FOREST).fit(MISSING, Y)
    model, _ = converted(estimator)
    agree(estimator, outputs(model, X=MISSING.astype(np.float32)), MISSING)


@pytest.mark.parametrize("name", ["forest", "gradients", "imputed"])
def test_made_up_samples_show_what_float32_changes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = importlib.import_module("graphopt.convert.sklearn.export")
    monkeypatch.setattr(export, "decides_behind", lambda estimator: False)
    estimator = make_pipeline(*BEHIND[name]).fit(X, Y)
    with pytest.raises(CheckFailed, match="differs from the source framework"):
        converted(estimator)


def test_columns_of_several_types() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "count": X[:, 0].astype(int),
            "size": X[:, 1] + 0.5,
            "kind": GENERATOR.choice(["a", "b"], len(X)),
            "text": GENERATOR.choice(["good food", "bad food"], len(X)),
            "code": X[:, 2].astype(int),
            "rest": X[:, 3],
        }
    )
    estimator = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["count", "size"]),
                ("kinds", OneHotEncoder(), ["kind", "code"]),
                ("words", CountVectorizer(), "text"),
                ("others", "passthrough", ["rest"]),
            ]
        ),
        FOREST,
    ).fit(frame, Y)
    model, _ = converted(estimator)
    kinds = {"kind": object, "text": object, "code": np.int64}
    feeds = {name: frame[[name]].to_numpy().astype(kinds.get(name, np.float32)) for name in frame}
    agree(estimator, outputs(model, **feeds), frame)


def test_an_ensemble_of_pipelines() -> None:
    inner = make_pipeline(StandardScaler(), TREE)
    estimator = ensemble.BaggingClassifier(inner, 5, max_features=3, random_state=0).fit(X, Y)
    model, _ = converted(estimator)
    agree(estimator, outputs(model, X=X.astype(np.float32)), X)


def test_words_beside_float64_columns(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"size": X[:, 1] / 3, "text": GENERATOR.choice(["good food", "bad, bad food"], len(X))}
    )
    columns = ColumnTransformer(
        [("size", StandardScaler(), ["size"]), ("words", TfidfVectorizer(), "text")]
    )
    estimator = make_pipeline(columns, LogisticRegression()).fit(frame, Y)
    np.savez(tmp_path / "rows.npz", size=frame["size"], text=frame["text"].to_numpy(str))
    model, _ = converted(estimator, data=str(tmp_path / "rows.npz"))
    feeds = {"size": frame[["size"]].to_numpy(), "text": frame[["text"]].to_numpy(object)}
    agree(estimator, outputs(model, **feeds), frame)
