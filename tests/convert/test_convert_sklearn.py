from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conftest import Ran

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
skops = pytest.importorskip("skops.io")

from sklearn import ensemble, linear_model, neighbors, neural_network, svm  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.multioutput import MultiOutputClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

X, Y = (array[:300] for array in load_digits(return_X_y=True))
LETTERS = np.array(list("abcdefghij"))
TREE = "sklearn.tree._tree.Tree"
ESTIMATORS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _module_of_estimators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `module:callable` find the estimator of the running test."""
    module = type(sys)("estimators")
    module.fitted = lambda: ESTIMATORS["fitted"]  # type: ignore[attr-defined]  # made up here
    monkeypatch.setitem(sys.modules, "estimators", module)
    yield
    ESTIMATORS.clear()


def converted(estimator: Any, **options: Any) -> tuple[ir.Model, tuple[str, ...]]:
    ESTIMATORS["fitted"] = estimator
    conversion = convert("estimators:fitted", framework="sklearn", options=Options(**options))
    return conversion.model, conversion.notes


def outputs(model: ir.Model, **feeds: Any) -> list[Any]:
    return list(Session(model).run(feeds).values())


def interface(model: ir.Model) -> dict[str, tuple[str, list[object]]]:
    return {
        str(value.name): (
            value.dtype.name if value.dtype is not None else "",
            [d if isinstance(d, int) else d.value for d in value.shape or ()],
        )
        for value in (*model.graph.inputs, *model.graph.outputs)
    }


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
    ):
        estimator.fit(X, targets)
        model, _ = converted(estimator)
        names = [value.name for value in model.graph.outputs]
        assert names == ["label", "probabilities_0", "probabilities_1"]
        _, *found = outputs(model, X=X[:7].astype(np.float32))
        for array, expected in zip(found, estimator.predict_proba(X[:7]), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)


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


def test_skops_file_with_unknown_types_is_refused_until_they_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "forest.skops"
    skops.dump(ensemble.RandomForestClassifier(3, random_state=0).fit(X, Y), path)
    with pytest.raises(GraphoptError, match=f"harmless: {TREE}; .*--trust {TREE}"):
        convert(str(path))
    first = convert(str(path), options=Options(trust=(TREE,)))
    again = convert(str(path), options=Options(trust=(TREE,)))
    one, two = (ir.to_proto(found.model).SerializeToString() for found in (first, again))
    assert one == two


def test_skops_file_of_known_types_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "line.model"
    skops.dump(linear_model.Ridge().fit(X, Y), path)
    assert convert(str(path)).notes == ()


@pytest.mark.parametrize("how", ["pickle", "joblib", "compressed"])
def test_pickle_is_refused_until_it_is_allowed(tmp_path: Path, how: str) -> None:
    import joblib

    path = tmp_path / "model"
    estimator = linear_model.Ridge().fit(X, Y)
    if how == "pickle":
        path.write_bytes(pickle.dumps(estimator))
    else:
        joblib.dump(estimator, path, compress=3 if how == "compressed" else 0)
    with pytest.raises(GraphoptError, match=r"is a pickle of sklearn\S*Ridge, and .* any code"):
        convert(str(path))
    notes = convert(str(path), options=Options(allow_pickle=True)).notes
    assert any("can run any code" in note for note in notes)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("it ran",))


def test_nothing_of_a_pickle_runs_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(GraphoptError, match="any code"):
        convert(str(path))
    assert "it ran" not in capsys.readouterr().out


def test_broken_files_are_one_line(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    whole = tmp_path / "whole.skops"
    skops.dump(linear_model.Ridge().fit(X, Y), whole)
    cut = tmp_path / "cut.skops"
    cut.write_bytes(whole.read_bytes()[:-100])
    empty = tmp_path / "empty.skops"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "nothing"}))
    pickled = tmp_path / "cut.pkl"
    pickled.write_bytes(pickle.dumps(linear_model.Ridge().fit(X, Y))[:-40])
    unfitted = tmp_path / "unfitted.skops"
    skops.dump(linear_model.Ridge(), unfitted)
    other = tmp_path / "list.skops"
    skops.dump([1, 2], other)
    for path, message in (
        (cut, "cut.skops"),
        (empty, "cannot be read by skops"),
        (pickled, "cannot be unpickled"),
        (unfitted, "is not fitted"),
        (other, "not an estimator of scikit-learn"),
    ):
        out = tmp_path / "out.onnx"
        done = graphopt("convert", str(path), "-o", str(out), "--from", "sklearn", "--allow-pickle")
        assert done.code == 2, path
        assert message in done.err
        assert len(done.err.splitlines()) == 1
        assert not out.exists()


def test_step_that_cannot_be_written_is_named() -> None:
    estimator = make_pipeline(FunctionTransformer(np.log1p), linear_model.Ridge()).fit(X, Y)
    with pytest.raises(GraphoptError, match=r"FunctionTransformer \(step 'functiontransformer' of"):
        converted(estimator)
    nested = ensemble.VotingRegressor(
        [("own", make_pipeline(FunctionTransformer(np.sqrt), linear_model.Ridge()))]
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
