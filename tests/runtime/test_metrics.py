from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from graphopt.errors import GraphoptError
from graphopt.runtime.metrics import Collector, Outputs, open_metric

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 200)
LOGITS = GENERATOR.standard_normal((200, 4)) + np.eye(4)[LABELS]


def outputs(**arrays: np.ndarray) -> Outputs:
    return Outputs(arrays, {})


def score(name: str, array: np.ndarray, labels: np.ndarray, output: str | None = None) -> float:
    found = outputs(y=array)
    return open_metric(name, output).score(found, labels, found)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=-1, keepdims=True)


def test_classification_is_scikit_learns() -> None:
    predicted = LOGITS.argmax(1)
    assert score("accuracy", LOGITS, LABELS) == metrics.accuracy_score(LABELS, predicted)
    assert score("top-1", LOGITS, LABELS) == metrics.accuracy_score(LABELS, predicted)
    assert score("top-2", LOGITS, LABELS) == metrics.top_k_accuracy_score(LABELS, LOGITS, k=2)
    for average in ("macro", "micro"):
        wanted = metrics.f1_score(LABELS, predicted, average=average)
        assert score(f"f1-{average}", LOGITS, LABELS) == wanted
    wanted = metrics.roc_auc_score(LABELS, softmax(LOGITS), multi_class="ovr")
    assert score("auc", LOGITS, LABELS) == pytest.approx(wanted)
    assert score("auc", softmax(LOGITS), LABELS) == pytest.approx(wanted)


def test_regression_is_scikit_learns_and_scipys() -> None:
    labels = GENERATOR.standard_normal(50)
    values = labels + GENERATOR.standard_normal(50) * 0.3
    assert score("mae", values[:, None], labels) == metrics.mean_absolute_error(labels, values)
    wanted = metrics.root_mean_squared_error(labels, values)
    assert score("rmse", values, labels[:, None]) == pytest.approx(wanted)
    assert 0.8 < score("spearman", values, labels) < 1
    assert score("spearman", np.exp(values), values) == pytest.approx(1)


def test_classes_are_read_from_every_form_of_output() -> None:
    predicted = LOGITS.argmax(1)
    wanted = metrics.accuracy_score(LABELS, predicted)
    assert score("accuracy", predicted, LABELS) == wanted
    assert score("accuracy", predicted.astype(np.int32)[:, None], LABELS) == wanted
    words = np.array(["a", "b", "c", "d"], dtype=object)
    assert score("accuracy", words[predicted], words[LABELS]) == wanted
    assert score("accuracy", LOGITS, np.eye(4)[LABELS]) == wanted
    assert score("accuracy", LOGITS, LABELS.astype(np.float32)) == wanted
    tokens = LOGITS.reshape(20, 10, 4)
    assert score("accuracy", tokens, LABELS.reshape(20, 10)) == wanted


def test_one_column_is_a_probability_or_a_logit_as_the_reference_says() -> None:
    labels = np.array([0, 1, 1, 0])
    logits = np.array([-1.0, 0.3, 2.0, 0.1])
    assert score("accuracy", logits[:, None], labels) == 0.75
    probabilities = np.array([0.1, 0.4, 0.9, 0.2])
    assert score("accuracy", probabilities, labels) == 0.75
    beyond = outputs(y=np.array([-0.01, 0.6, 1.01, 0.2]))
    found = open_metric("accuracy").score(beyond, labels, outputs(y=probabilities))
    assert found == 1
    assert score("auc", logits, labels) == 1
    assert score("auc", np.stack([-logits, logits], 1), labels) == 1


def test_maps_are_read_by_their_keys() -> None:
    collector = Collector(["y"])
    collector.add({"y": [{7: 0.9, 3: 0.1}, {7: 0.2, 3: 0.8}]})
    collector.add({"y": [{3: 0.6, 7: 0.4}]})
    found = collector.outputs()
    assert open_metric("accuracy").score(found, np.array([7, 3, 7]), found) == pytest.approx(2 / 3)


def test_drops_are_positive_where_it_got_worse() -> None:
    assert open_metric("accuracy").drop(0.9, 0.8) == pytest.approx(0.1)
    assert open_metric("rmse").drop(0.9, 0.8) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("name", "array", "labels", "cause"),
    [
        ("accuracy", LOGITS, LABELS[:-1], "200 predictions .* but 199 labels"),
        ("accuracy", LOGITS, LABELS + 1, "labels from 1 to 4, but 4 classes"),
        ("top-4", LOGITS, LABELS, "always within"),
        ("auc", LOGITS.argmax(1), LABELS, "needs scores"),
        ("auc", LOGITS, np.zeros(200, np.int64), "not defined"),
        ("mae", LOGITS, LABELS, "800 values, but 200 labels"),
        ("spearman", np.zeros(200), LABELS, "not defined"),
    ],
)
def test_what_a_metric_does_not_take(
    name: str, array: np.ndarray, labels: np.ndarray, cause: str
) -> None:
    with pytest.raises(GraphoptError, match=cause):
        score(name, array, labels)


def test_the_output_is_chosen_by_name() -> None:
    metric = open_metric("accuracy", "b")
    assert metric.outputs(["a", "b"]) == ["b"]
    assert open_metric("accuracy").outputs(["a", "b"]) == ["a"]
    with pytest.raises(GraphoptError, match="no output 'c'"):
        open_metric("accuracy", "c").outputs(["a", "b"])
    with pytest.raises(GraphoptError, match="no metric 'akkuracy'"):
        open_metric("akkuracy")


def test_functions_get_all_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def share(outputs, labels):\n    return (outputs['b'] == labels).mean()\n"
        "def broken(outputs, labels):\n    return outputs['nowhere']\n"
    )
    monkeypatch.chdir(tmp_path)
    found = outputs(a=LOGITS, b=LABELS)
    metric = open_metric("own_metric:share")
    assert metric.outputs(["a", "b"]) == ["a", "b"]
    assert metric.score(found, LABELS, found) == 1
    with pytest.raises(GraphoptError, match="own_metric:broken fails: KeyError"):
        open_metric("own_metric:broken").score(found, LABELS, found)


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[sklearn\]'"):
        score("f1-macro", LOGITS, LABELS)
