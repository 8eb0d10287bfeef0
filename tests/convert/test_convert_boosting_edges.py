"""Boosted trees where rounding and infinities show: on thresholds, beside them and beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.convert import Options, convert
from graphopt.convert.boosting.graph import Outcome, build
from graphopt.convert.boosting.samples import samples
from graphopt.convert.boosting.trees import Trees
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.session import Session

load_diabetes = pytest.importorskip("sklearn.datasets").load_diabetes

X, Y = load_diabetes(return_X_y=True)
_RANDOM = np.random.default_rng(0)
GAPS = X.astype(np.float32)
GAPS[_RANDOM.random(X.shape) < 0.2] = np.nan
INFINITE = GAPS.copy()
INFINITE[_RANDOM.random(X.shape) < 0.1] = np.inf
INFINITE[_RANDOM.random(X.shape) < 0.1] = -np.inf
GRADES = np.clip(Y // 60, 0, 4).astype(int)


def beside_thresholds(model: ir.Model, features: Any) -> Any:
    """Real samples with one feature on a threshold, on a neighbour of it, infinite, or missing."""
    (trees,) = [node for node in model.graph if node.op_type == "TreeEnsembleRegressor"]
    values = np.array(trees.attributes["nodes_values"].as_floats(), np.float32)
    columns = np.array(trees.attributes["nodes_featureids"].as_ints())
    inner = np.array(trees.attributes["nodes_modes"].as_strings()) != "LEAF"
    moved = [features]
    for column, value in set(zip(columns[inner], values[inner], strict=True)):
        up, down = (np.nextafter(value, np.float32(side)) for side in (np.inf, -np.inf))
        rows = features[_RANDOM.integers(0, len(features), 6)].copy()
        rows[:, column] = [value, up, down, np.inf, -np.inf, np.nan]
        moved.append(rows)
    return np.concatenate(moved)


def check(path: Path, features: Any, predict: Any) -> None:
    model = convert(str(path)).model
    samples = beside_thresholds(model, features)
    (found,) = Session(model).run({"X": samples}).values()
    np.testing.assert_allclose(found[:, 0], predict(samples), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "settings"),
    [
        (GAPS, {}),
        (GAPS, {"objective": "poisson"}),
        (GAPS, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}),
        (INFINITE, {}),
        (INFINITE, {"use_missing": False}),
        (np.where(np.abs(X) < 0.02, 0, X), {"zero_as_missing": True}),
    ],
    ids=["gaps", "poisson", "forest", "infinite", "no missing", "zeros"],
)
def test_lightgbm_goes_where_it_went(
    tmp_path: Path, features: Any, settings: dict[str, Any]
) -> None:
    """Splits between a value and a missing one have an infinite threshold, which JSON has not."""
    lightgbm = pytest.importorskip("lightgbm")
    common = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 3, "deterministic": True}
    fitted = lightgbm.train({**common, **settings}, lightgbm.Dataset(features, Y), 20)
    path = tmp_path / "model.txt"
    fitted.save_model(path)
    check(path, features.astype(np.float32), fitted.predict)


def test_lightgbm_ranks(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(GAPS, GRADES, group=[42] * 10 + [22])
    settings = {"objective": "lambdarank", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 3}
    fitted = lightgbm.train(settings, data, 20)
    path = tmp_path / "model.txt"
    fitted.save_model(path)
    check(path, GAPS, fitted.predict)


def test_labels_of_saturated_sigmoids_follow_the_sums() -> None:
    """With sums beyond 17 a float32 sigmoid is 1; libraries decide in float64."""
    outcome = Outcome("sigmoid", classes=True)
    model = build("sums", 3, ir.DataType.FLOAT, lambda _, name: (name, 3), outcome, None)
    found = Session(model).run({"X": np.array([[20, 30, 25], [-1, -3, -2]], np.float32)})
    assert (found["probabilities"][0] == 1).all()
    np.testing.assert_array_equal(found["label"], [1, 0])


def test_all_rows_of_the_data_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 3}
    path, data = tmp_path / "model.txt", tmp_path / "data.npz"
    lightgbm.train(settings, lightgbm.Dataset(GAPS, Y), 5).save_model(path)
    np.savez(data, X=GAPS)
    options = Options(data=str(data))
    found = samples(10, [(0, 0.01)], {}, options)
    np.testing.assert_array_equal(found.features[: len(GAPS)], GAPS)
    assert len(found.features) == len(GAPS) + 29 + 5
    assert next(iter(convert(str(path), options=options).parity)).sizes["batch"] > len(GAPS)

    right = Trees.split

    def wrong(self: Trees, node: int, feature: int, *rest: Any) -> None:
        mode, threshold, *others = rest
        right(self, node, feature, mode, threshold * (1 + 1e-3), *others)

    monkeypatch.setattr(Trees, "split", wrong)
    for given in (options, Options()):
        with pytest.raises(CheckFailed, match="differs from the source framework"):
            convert(str(path), options=given)


def test_data_that_is_too_much_is_cut_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.convert.boosting import samples as boosting_samples

    monkeypatch.setattr(boosting_samples, "_MOST_NUMBERS", 1000)
    data = tmp_path / "data.npz"
    np.savez(data, X=GAPS)
    found = samples(10, [], {}, Options(data=str(data)))
    assert len(found.features) == 100 + 29
    assert found.notes == (f"compared on the first 100 samples of {data}",)


def test_xgboost_takes_no_infinities(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBRegressor(n_estimators=4, n_jobs=1).fit(GAPS, Y)
    path, data = tmp_path / "model.json", tmp_path / "data.npz"
    fitted.save_model(path)
    np.savez(data, X=GAPS)
    assert convert(str(path), options=Options(data=str(data))).parity
    np.savez(data, X=INFINITE)
    with pytest.raises(GraphoptError, match=r"XGBoost does not take the samples: .*inf") as error:
        convert(str(path), options=Options(data=str(data)))
    assert error.value.exit_code == 2
