from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graphopt.ensembles.expression import Member, Stack
from graphopt.ensembles.fit import fit_meta
from graphopt.ensembles.fit.folds import folds
from graphopt.ensembles.fit.linear import fit_linear, prove
from graphopt.ensembles.reference import Reference, Sessions
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load
from graphopt.runtime.feeds import Feeds, open_feeds
from graphopt.runtime.session import Session

FIXTURES = Path(__file__).parents[3] / "fixtures"


@pytest.fixture(scope="module")
def digits() -> dict[str, ir.Model]:
    return {name: load(FIXTURES / f"digits_{name}.onnx") for name in ("cnn", "mlp")}


@pytest.fixture(scope="module")
def noisy() -> Feeds:
    feeds = open_feeds(str(FIXTURES / "digits_test.npz"))
    image = feeds.arrays["image"]
    moved = image + 0.3 * np.random.default_rng(0).normal(size=image.shape)
    return Feeds({"image": moved.astype(np.float32)}, labels=feeds.labels)


def rows_of(members: dict[str, ir.Model], feeds: Feeds) -> np.ndarray:
    batch = dict(feeds.arrays)
    return np.concatenate(
        [next(iter(Session(model).run(batch).values())) for model in members.values()], axis=1
    )


def test_the_meta_model_is_scikit_learns(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    labels = noisy.labels
    assert labels is not None
    found = fit_meta("stack(cnn, mlp)", digits, noisy, "accuracy", seed=3)
    rows = rows_of(digits, noisy)
    wanted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    wanted.fit(rows.astype(np.float64), labels)
    (graph,) = Session(found.model).run({"stacked": rows}).values()
    probabilities = wanted.predict_proba(rows.astype(np.float64))
    np.testing.assert_allclose(graph, probabilities, atol=1e-5)
    assert found.error <= 1e-5
    assert found.after == (probabilities.argmax(axis=1) == labels).mean()
    held = np.empty_like(probabilities)
    for kept, out in folds(labels, 5, 3, stratified=True):
        fold = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        fold.fit(rows[kept].astype(np.float64), labels[kept])
        held[out] = fold.predict_proba(rows[out].astype(np.float64))
    assert found.held_out == (held.argmax(axis=1) == labels).mean()
    assert (found.features, found.samples, found.folds) == (20, 500, 5)


def test_the_program_runs_with_its_meta_model(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    text = "p = stack(softmax(cnn), mlp, passthrough=True); label = argmax(p)"
    found = fit_meta(text, digits, noisy, "accuracy")
    assert found.features == 64 + 20
    assert found.text == (
        "p = stack(softmax(cnn), mlp, meta=meta, passthrough=True); label = argmax(p)"
    )
    (stack,) = [part for part in found.program.walk() if isinstance(part, Stack)]
    assert isinstance(stack.meta, Member)
    assert stack.meta.model is found.model
    sessions = Sessions({**digits, found.name: found.model})
    made = Reference(sessions, dict(noisy.arrays)).outputs(found.program)
    assert (made["label"] == noisy.labels).mean() == found.after
    again = fit_meta(text, digits, noisy, "accuracy")
    assert again.held_out == found.held_out
    for name, value in found.model.graph.initializers.items():
        other = again.model.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        np.testing.assert_array_equal(value.const_value.numpy(), other.numpy())


def regression(count: int = 80) -> tuple[dict[str, ir.Model], Feeds, np.ndarray]:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2] x) => (float[N, 1] y) <float[2, 1] w = {%s}> { y = MatMul(x, w) }"""
    models = {name: ir.from_onnx_text(text % w) for name, w in (("a", "1, 2"), ("b", "5, -1"))}
    draw = np.random.default_rng(1)
    x = draw.normal(size=(count, 2)).astype(np.float32)
    y = np.stack([x @ [1, 2], x @ [5, -1]], axis=1) @ [[2.0], [-1.0]] + 3
    return models, Feeds({"x": x}, labels=y.ravel()), y.ravel()


def test_a_ridge_of_numbers() -> None:
    models, feeds, y = regression()
    found = fit_meta("stack(a, b)", models, feeds, "rmse", kind="ridge", regularization=0.5)
    rows = rows_of(models, feeds)
    wanted = make_pipeline(StandardScaler(), Ridge(alpha=0.5)).fit(rows.astype(np.float64), y)
    (graph,) = Session(found.model).run({"stacked": rows}).values()
    assert graph.shape == (80, 1)
    np.testing.assert_allclose(graph.ravel(), wanted.predict(rows.astype(np.float64)), rtol=1e-5)
    assert found.lower_is_better
    assert found.held_out >= found.after * 0.5
    assert found.after == pytest.approx(
        float(np.sqrt(np.mean((wanted.predict(rows.astype(np.float64)) - y) ** 2))), rel=1e-4
    )


@pytest.mark.parametrize("labels", [(0, 1), (0, 2, 3), (1, 4)])
def test_columns_are_class_numbers(labels: tuple[int, ...]) -> None:
    draw = np.random.default_rng(4)
    target = draw.choice(labels, 120)
    rows = (draw.normal(size=(120, 5)) + target[:, None] * [1, 0, -1, 0, 0]).astype(np.float32)
    columns = max(labels) + 1
    linear = fit_linear(rows, target, "logistic", columns=columns, regularization=1.0, seed=0)
    model = linear.model("meta")
    assert prove(linear, model, rows) < 1e-5
    (found,) = Session(model).run({"stacked": rows}).values()
    wanted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    wanted.fit(rows.astype(np.float64), target)
    np.testing.assert_allclose(
        found[:, list(labels)], wanted.predict_proba(rows.astype(np.float64)), atol=1e-6
    )
    missing = [label for label in range(columns) if label not in labels]
    assert (found[:, missing] == 0).all()
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.predict(rows.astype(np.float64)))


def test_constant_features_and_far_off_ones_are_standardized() -> None:
    draw = np.random.default_rng(4)
    target = draw.integers(0, 3, 200)
    rows = np.stack(
        [np.full(200, 7.0), 1e4 + target + draw.normal(size=200), 1e-6 * target], axis=1
    ).astype(np.float32)
    linear = fit_linear(rows, target, "logistic", columns=3, regularization=1.0, seed=0)
    assert prove(linear, linear.model("meta"), rows) < 0.05


def test_a_graph_that_is_wrong_is_not_returned() -> None:
    draw = np.random.default_rng(4)
    target = draw.integers(0, 3, 90)
    rows = (draw.normal(size=(90, 3)) + target[:, None]).astype(np.float32)
    linear = fit_linear(rows, target, "logistic", columns=3, regularization=1.0, seed=0)
    model = linear.model("meta")
    bias = model.graph.initializers["bias"]
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32([1e-3, 0, 0]), name="bias")
    with pytest.raises(CheckFailed, match="away from scikit-learn"):
        prove(linear, model, rows)


def test_a_class_that_no_sample_has_is_told() -> None:
    models, feeds, y = regression()
    labels = np.where(y > 0, 3, 1)
    found = fit_meta("stack(a, b)", models, Feeds(feeds.arrays, labels=labels), "accuracy")
    assert "no sample is of class 0, 2" in found.notes[-1]
    assert found.after > 0.9


def test_names_that_are_taken() -> None:
    models, feeds, y = regression()
    models["meta"] = models["b"]
    labels = (y > 0).astype(np.int64)
    found = fit_meta("stack(a, meta)", models, Feeds(feeds.arrays, labels=labels), "accuracy")
    assert found.text == f"stack(a, meta, meta={found.name})"
    assert found.name not in models


@pytest.mark.parametrize(
    ("text", "kwargs", "labels", "match"),
    [
        ("mean(a, b)", {}, [0, 1], "no stack without a meta-model"),
        ("stack(a, meta=b)", {}, [0, 1], "no stack without a meta-model"),
        ("stack(a, b)", {"kind": "forest"}, [0, 1], "use logistic or ridge"),
        ("stack(a, b)", {"regularization": 0}, [0, 1], "more than 0"),
        ("stack(a, b)", {}, [0, 0], "all of one class"),
        ("stack(a, b)", {}, [-1, 1], "class numbers from 0"),
        ("stack(a, b)", {}, [0.5, 1], "class numbers from 0"),
        ("stack(a, b)", {}, ["x", "y"], "class numbers from 0"),
        ("stack(a, b)", {}, None, "needs labels"),
    ],
)
def test_refusals(text: str, kwargs: dict[str, Any], labels: list[Any], match: str) -> None:
    models, feeds, _ = regression(10)
    made = None if labels is None else np.array(labels * 5)
    with pytest.raises(GraphoptError, match=match):
        fit_meta(text, models, Feeds(feeds.arrays, labels=made), "accuracy", **kwargs)


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models, feeds, y = regression(20)
    real = importlib.import_module

    def absent(name: str) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    labels = (y > 0).astype(np.int64)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[sklearn\]'"):
        fit_meta("stack(a, b)", models, Feeds(feeds.arrays, labels=labels), "accuracy")


def test_each_member_starts_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    models, feeds, _ = regression()
    started: list[str] = []
    ran: list[str] = []

    class Counted(Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self.title)

        def run(self, batch: Mapping[str, np.ndarray]) -> Any:
            ran.append(self.title)
            return super().run(batch)

    monkeypatch.setattr("graphopt.ensembles.reference.sessions.Session", Counted)
    fit_meta("stack(a, soup(a, b))", models, feeds, "rmse", kind="ridge", fold_count=3, batch=40)
    fitted = [f"member {name!r}" for name in ("rows", "meta", "meta_0", "meta_1", "meta_2")]
    assert started == ["member 'a'", "member 'soup_0'", *fitted]
    assert sorted(ran) == sorted(2 * started)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_no_samples_are_refused(digits: dict[str, ir.Model], kind: str) -> None:
    none = Feeds({"image": np.zeros((0, 1, 8, 8), np.float32)}, labels=np.zeros(0, np.int64))
    metric = "accuracy" if kind == "logistic" else "mae"
    with pytest.raises(GraphoptError, match="holds no samples"):
        fit_meta("stack(cnn, mlp)", digits, none, metric, kind=kind)
