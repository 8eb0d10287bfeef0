from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import ensemble, linear_model
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn_estimators import X, Y, converted, interface, outputs


def frame() -> Any:
    pd = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    words = ["red", "blue", "green", "house", "garden", "sea", "old", "new"]
    table = pd.DataFrame(
        {
            "age": random.uniform(18, 80, 120),
            "city": random.choice(["Oslo", "Bergen", "Rome"], 120).astype(object),
            "unused": random.normal(size=120),
            "rooms": random.integers(1, 6, 120),
            "text": [" ".join(random.choice(words, 5)) for _ in range(120)],
        }
    )
    table.loc[::9, "age"] = np.nan
    return table


def test_columns_are_inputs_by_name_with_their_types() -> None:
    table = frame()
    estimator = make_pipeline(
        ColumnTransformer(
            [
                ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
                ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
                ("rooms", OrdinalEncoder(), ["rooms"]),
                ("text", TfidfVectorizer(), "text"),
            ]
        ),
        linear_model.LogisticRegression(),
    )
    target = np.where((table.rooms > 2) & (table.city == "Oslo"), "dear", "cheap")
    estimator.fit(table, target)
    model, _ = converted(estimator)
    kinds = {name: kind for name, (kind, _) in interface(model).items()}
    assert kinds == {
        "age": "FLOAT",
        "city": "STRING",
        "rooms": "INT64",
        "text": "STRING",
        "label": "STRING",
        "probabilities": "FLOAT",
    }
    some = table[:7].copy()
    some.loc[0, "city"] = "Atlantis"
    feeds = {
        "age": some[["age"]].to_numpy(np.float32),
        "city": some[["city"]].to_numpy(object),
        "rooms": some[["rooms"]].to_numpy(np.int64),
        "text": some[["text"]].to_numpy(object),
    }
    label, probabilities = outputs(model, **feeds)
    np.testing.assert_allclose(probabilities, estimator.predict_proba(some), atol=1e-5)
    assert (label == estimator.predict(some)).all()


def test_empty_string_stands_for_a_missing_one() -> None:
    table = frame()[["city", "age"]]
    table.loc[::4, "city"] = np.nan
    encoder = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    estimator = ColumnTransformer([("city", encoder, ["city"])]).fit(table)
    model, notes = converted(estimator)
    assert any("empty string stands for a missing one" in note for note in notes)
    (found,) = outputs(model, city=np.array([[""], ["Rome"]], object))
    missing = table.iloc[[0]]
    np.testing.assert_array_equal(found[:1], estimator.transform(missing))


def test_type_of_the_data_is_the_type_of_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=X[:20])
    data = str(tmp_path / "x.npz")
    line = linear_model.LogisticRegression(max_iter=50, tol=0.1).fit(X, Y)
    model, notes = converted(line, data=data)
    assert interface(model)["X"][0] == "DOUBLE"
    assert interface(model)["probabilities"][0] == "DOUBLE"
    assert not any("float32" in note for note in notes)
    trees = ensemble.GradientBoostingClassifier(n_estimators=2).fit(X, Y % 2)
    model, notes = converted(trees, data=data)
    assert interface(model)["X"][0] == "DOUBLE"
    assert any("is computed in float32" in note for note in notes)


@pytest.mark.parametrize("kind", [linear_model.LogisticRegression, ensemble.RandomForestClassifier])
def test_labels_that_are_booleans_stay_so(kind: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    estimator = kind().fit(rows, rows[:, 0] > 0)
    model, _ = converted(estimator)
    label = outputs(model, X=rows)[0]
    assert label.dtype == bool
    np.testing.assert_array_equal(label, estimator.predict(rows))
