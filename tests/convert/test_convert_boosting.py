from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import Ran

from graphopt.convert import convert
from graphopt.convert.boosting.trees import Trees
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session

load_digits = pytest.importorskip("sklearn.datasets").load_digits

X, Y = (array[:300] for array in load_digits(return_X_y=True))
_RANDOM = np.random.default_rng(0)
NOISY = X + 0.3 * _RANDOM.normal(size=X.shape)
NOISY[_RANDOM.random(X.shape) < 0.1] = np.nan
CATEGORIES = np.stack([X[:, 20] % 7, X[:, 30], X[:, 28] % 9], axis=1)
CATEGORIES[::7, 0] = np.nan
STRANGE = np.array([[100, 1, 3], [np.nan, np.nan, np.nan], [-1, 0, -3], [2.5, 3, 1.2]])
LETTERS = np.array(list("abcdefghij"))


def outputs(model: ir.Model, features: Any) -> dict[str, Any]:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    name = str(model.graph.inputs[0].name)
    return Session(model).run({name: features.astype(np.float32)})


def on_thresholds(path: Path, width: int) -> Any:
    """Samples on every threshold of a converted model, and on its float32 neighbours."""
    model = convert(str(path)).model
    (trees,) = [node for node in model.graph if node.op_type == "TreeEnsembleRegressor"]
    splits = np.array(trees.attributes["nodes_values"].as_floats(), np.float32)
    splits = splits[np.abs(splits) < 1e30]
    near = [splits, *(np.nextafter(splits, np.float32(side)) for side in (np.inf, -np.inf))]
    return np.repeat(np.concatenate(near)[:, None], width, axis=1)


def check_classifier(path: Path, features: Any, proba: Any, label: Any) -> None:
    model = convert(str(path)).model
    for batch in (1, 3, 7, len(features)):
        samples = features[:batch].astype(np.float32)
        found = outputs(model, samples)
        np.testing.assert_allclose(found["probabilities"], proba(samples), atol=2e-6)
        assert (found["label"] == np.ravel(label(samples))).all()


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("booster", ["gbtree", "dart", "gblinear"])
def test_xgboost_classifier(tmp_path: Path, suffix: str, classes: int, booster: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    features = X if booster == "gblinear" else NOISY
    fitted = xgboost.XGBClassifier(n_estimators=8, booster=booster, n_jobs=1)
    path = tmp_path / f"model.{suffix}"
    fitted.fit(features, Y % classes).save_model(path)
    check_classifier(path, features, fitted.predict_proba, fitted.predict)
    if booster == "gbtree":
        samples = on_thresholds(path, 64)
        check_classifier(path, samples, fitted.predict_proba, fitted.predict)


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        ({}, 1),
        ({}, 2),
        ({"multi_strategy": "multi_output_tree", "tree_method": "hist"}, 2),
        ({"objective": "count:poisson"}, 1),
        ({"objective": "reg:logistic"}, 0),
        ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, 1),
    ],
    ids=str,
)
def test_xgboost_regressor(tmp_path: Path, settings: dict[str, Any], targets: int) -> None:
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBRegressor(n_estimators=8, n_jobs=1, **settings)
    target = np.stack([Y, 2 * Y], axis=1) if targets == 2 else Y / (1 if targets else 10)
    path = tmp_path / "model.json"
    fitted.fit(NOISY, target).save_model(path)
    found = outputs(convert(str(path)).model, NOISY)["variable"]
    expected = fitted.predict(NOISY.astype(np.float32)).reshape(len(NOISY), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("one_hot", [1, 99])
def test_xgboost_categories(tmp_path: Path, one_hot: int) -> None:
    xgboost = pytest.importorskip("xgboost")
    settings = {"max_cat_to_onehot": one_hot, "max_depth": 4, "nthread": 1}

    def matrix(features: Any, target: Any = None) -> Any:
        return xgboost.DMatrix(
            features, target, feature_types=["c", "float", "c"], enable_categorical=True
        )

    target = Y + 10 * (CATEGORIES[:, 2] % 3)
    booster = xgboost.train(settings, matrix(CATEGORIES, target), 8)
    path = tmp_path / "model.ubj"
    booster.save_model(path)
    samples = np.concatenate([CATEGORIES, STRANGE]).astype(np.float32)
    # What XGBoost itself refuses is not asked of it.
    samples = samples[~(samples[:, [0, 2]] < 0).any(axis=1)]
    found = outputs(convert(str(path)).model, samples)["variable"]
    np.testing.assert_allclose(found[:, 0], booster.predict(matrix(samples)), rtol=1e-5)


def test_xgboost_early_stopping_counts_as_in_its_predictions(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBClassifier(n_estimators=40, early_stopping_rounds=2, n_jobs=1)
    fitted.fit(X, Y % 2, eval_set=[(X[:50], 1 - Y[:50] % 2)], verbose=False)
    path = tmp_path / "model.json"
    fitted.save_model(path)
    assert any("stopped early" in note for note in convert(str(path)).notes)
    check_classifier(path, X, fitted.predict_proba, fitted.predict)


@pytest.mark.parametrize("kind", ["gbdt", "dart", "rf"])
@pytest.mark.parametrize("classes", [2, 10])
def test_lightgbm_classifier(tmp_path: Path, kind: str, classes: int) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    fitted = lightgbm.LGBMClassifier(
        n_estimators=6, boosting_type=kind, subsample_freq=1, subsample=0.6, n_jobs=1, verbose=-1
    )
    path = tmp_path / "model.txt"
    fitted.fit(NOISY, Y % classes).booster_.save_model(path)
    check_classifier(path, NOISY, fitted.predict_proba, fitted.predict)
    check_classifier(path, on_thresholds(path, 64), fitted.predict_proba, fitted.predict)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "poisson"},
        {"objective": "cross_entropy_lambda"},
        {"reg_sqrt": True},
        {"zero_as_missing": True},
        {"use_missing": False},
    ],
    ids=str,
)
def test_lightgbm_regressor(tmp_path: Path, settings: dict[str, Any]) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    fitted = lightgbm.LGBMRegressor(n_estimators=8, n_jobs=1, verbose=-1, **settings)
    features = NOISY.copy()
    features[:, ::3] = X[:, ::3]
    target = Y / 10 if "cross" in str(settings) else Y
    path = tmp_path / "model.txt"
    fitted.fit(features, target).booster_.save_model(path)
    found = outputs(convert(str(path)).model, features)["variable"][:, 0]
    expected = fitted.predict(features.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_lightgbm_categories(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    fitted = lightgbm.LGBMRegressor(
        n_estimators=8, min_data_per_group=5, cat_smooth=1, n_jobs=1, verbose=-1
    )
    target = Y + 10 * (CATEGORIES[:, 2] % 3)
    path = tmp_path / "model.txt"
    fitted.fit(CATEGORIES, target, categorical_feature=[0, 2]).booster_.save_model(path)
    samples = np.concatenate([CATEGORIES, STRANGE]).astype(np.float32)
    found = outputs(convert(str(path)).model, samples)["variable"][:, 0]
    np.testing.assert_allclose(found, fitted.predict(samples), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["SymmetricTree", "Lossguide"])
@pytest.mark.parametrize("loss", ["Logloss", "MultiClass", "MultiClassOneVsAll"])
@pytest.mark.parametrize("labels", ["numbers", "strings"])
def test_catboost_classifier(tmp_path: Path, policy: str, loss: str, labels: str) -> None:
    catboost = pytest.importorskip("catboost")
    fitted = catboost.CatBoostClassifier(
        iterations=8, loss_function=loss, grow_policy=policy, depth=4, verbose=0, thread_count=1,
        allow_writing_files=False,
    )  # fmt: skip
    target = Y % 2 if loss == "Logloss" else Y
    path = tmp_path / "model.cbm"
    fitted.fit(NOISY, LETTERS[target] if labels == "strings" else target).save_model(str(path))
    check_classifier(path, NOISY, fitted.predict_proba, fitted.predict)
    check_classifier(path, on_thresholds(path, 64), fitted.predict_proba, fitted.predict)


@pytest.mark.parametrize("missing", ["Min", "Max"])
@pytest.mark.parametrize("loss", ["RMSE", "Poisson", "MultiRMSE"])
def test_catboost_regressor(tmp_path: Path, missing: str, loss: str) -> None:
    catboost = pytest.importorskip("catboost")
    fitted = catboost.CatBoostRegressor(
        iterations=8, loss_function=loss, nan_mode=missing, depth=4, verbose=0, thread_count=1,
        allow_writing_files=False,
    )  # fmt: skip
    target = np.stack([Y, 2 * Y], axis=1) if loss == "MultiRMSE" else Y
    path = tmp_path / "model.json"
    fitted.fit(NOISY, target).save_model(str(path), format="json")
    found = outputs(convert(str(path)).model, NOISY)["predictions"]
    expected = fitted.predict(NOISY.astype(np.float32)).reshape(len(NOISY), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_onnx_has_no_form_of_is_named(tmp_path: Path) -> None:
    catboost = pytest.importorskip("catboost")
    lightgbm = pytest.importorskip("lightgbm")
    path = tmp_path / "model.cbm"
    table = [[f"c{int(row[0])}", float(row[1])] for row in np.nan_to_num(CATEGORIES)]
    catboost.CatBoostRegressor(
        iterations=2, cat_features=[0], verbose=0, allow_writing_files=False, thread_count=1
    ).fit(table, Y).save_model(str(path))
    with pytest.raises(GraphoptError, match="1 categorical features"):
        convert(str(path))
    path = tmp_path / "model.txt"
    lightgbm.LGBMRegressor(n_estimators=2, linear_tree=True, n_jobs=1, verbose=-1).fit(
        X, Y
    ).booster_.save_model(path)
    with pytest.raises(GraphoptError, match="tree 0 has linear models in its leaves"):
        convert(str(path))


def test_broken_files_are_one_line(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    catboost = pytest.importorskip("catboost")
    lightgbm = pytest.importorskip("lightgbm")
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(X, Y % 2)
    paths = [tmp_path / name for name in ("a.json", "a.ubj", "a.txt", "a.cbm")]
    fitted.save_model(paths[0])
    fitted.save_model(paths[1])
    lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(X, Y % 2).booster_.save_model(
        paths[2]
    )
    catboost.CatBoostClassifier(
        iterations=2, verbose=0, thread_count=1, allow_writing_files=False
    ).fit(X, Y % 2).save_model(str(paths[3]))
    for path in paths:
        content = path.read_bytes()
        for share in (0.3, 0.9):
            path.write_bytes(content[: int(share * len(content))])
            out = tmp_path / "out.onnx"
            done = graphopt("convert", str(path), "-o", str(out))
            assert done.code == 2, path
            assert str(path) in done.err
            assert len(done.err.splitlines()) == 1
            assert not out.exists()


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT"])
def test_thresholds_of_float64_part_float32_as_they_did(mode: Any) -> None:
    random = np.random.default_rng(0)
    for threshold in random.normal(size=200) * 10.0 ** random.integers(-6, 6, 200):
        trees = Trees(1)
        trees.split(0, 0, mode, float(threshold), (1, 2), False)
        value = np.float32(trees.nodes[0][4])
        near = np.float32(threshold)
        for x in (near, np.nextafter(near, np.float32(9e9)), np.nextafter(near, np.float32(-9e9))):
            if mode == "BRANCH_LEQ":
                assert (x <= value) == (float(x) <= threshold)
            else:
                assert (x < value) == (float(x) < threshold)
