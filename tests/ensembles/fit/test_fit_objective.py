from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.special

from graphopt.ensembles.fit.combination import find
from graphopt.ensembles.fit.folds import folds
from graphopt.ensembles.fit.objective import Loss, Unfit
from graphopt.ensembles.text import parse
from graphopt.errors import GraphoptError

softmax = partial(scipy.special.softmax, axis=-1)

ROWS = np.arange(40)
HALF = np.array([0.25, 0.75])


def drawn(*shape: int) -> tuple[list[np.ndarray], np.ndarray]:
    draw = np.random.default_rng(0)
    scores = [draw.normal(size=shape).astype(np.float32) for _ in range(2)]
    return scores, draw.integers(0, shape[-1], shape[:-1])


def value(
    text: str, arrays: list[np.ndarray], labels: np.ndarray, rows: np.ndarray = ROWS
) -> float:
    loss = Loss(find(parse(text)), arrays, labels, numbers=False)
    return loss.objective(rows)(HALF)[0]


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    return float(-np.log(rows[np.arange(len(rows)), labels.ravel()]).mean())


@pytest.mark.parametrize("shape", [(40, 5), (40, 7, 5)])
def test_losses_are_those_of_what_the_program_computes(shape: tuple[int, ...]) -> None:
    scores, labels = drawn(*shape)
    mixed = 0.25 * scores[0] + 0.75 * scores[1]
    assert value("softmax(0.5 * a + 0.5 * b)", scores, labels) == pytest.approx(
        log_loss(softmax(mixed), labels), rel=1e-6
    )
    shares = [softmax(array) for array in scores]
    assert value("mean(a, b)", shares, labels) == pytest.approx(
        log_loss(0.25 * shares[0] + 0.75 * shares[1], labels), rel=1e-6
    )
    pooled = np.exp(0.25 * np.log(shares[0]) + 0.75 * np.log(shares[1]))
    pooled /= pooled.sum(axis=-1, keepdims=True)
    assert value("geometric_mean(a, b)", shares, labels) == pytest.approx(
        log_loss(pooled, labels), rel=1e-6
    )
    some = np.array([3, 9, 30])
    assert value("softmax(0.5 * a + 0.5 * b)", scores, labels, some) == pytest.approx(
        log_loss(softmax(mixed[some]), labels[some]), rel=1e-6
    )


def test_labels_may_be_one_hot_or_whole_floats() -> None:
    scores, labels = drawn(40, 5)
    wanted = value("softmax(0.5 * a + 0.5 * b)", scores, labels)
    for other in (np.eye(5)[labels], labels.astype(np.float32), labels.astype(np.uint8)[:, None]):
        assert value("softmax(0.5 * a + 0.5 * b)", scores, other) == pytest.approx(wanted)


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_one_column_is_class_1(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1)
    scores = [draw.normal(size=shape).astype(np.float32) for _ in range(2)]
    labels = draw.integers(0, 2, 40)
    mixed = 1 / (1 + np.exp(-(0.25 * scores[0] + 0.75 * scores[1]).ravel()))
    both = np.stack([1 - mixed, mixed], axis=1)
    found = value("sigmoid(0.5 * a + 0.5 * b)", scores, labels)
    assert found == pytest.approx(log_loss(both, labels), rel=1e-5)
    shares = [(1 / (1 + np.exp(-array))).astype(np.float32) for array in scores]
    mean = (0.25 * shares[0] + 0.75 * shares[1]).ravel()
    both = np.stack([1 - mean, mean], axis=1)
    found = value("0.5 * a + 0.5 * b", shares, labels)
    assert found == pytest.approx(log_loss(both, labels), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "change", "why"),
    [
        ("vote(a, b)", lambda array: array, "votes do not change"),
        ("mean(a, b)", lambda array: array, "no softmax is applied"),
        ("sigmoid(0.5 * a + 0.5 * b)", lambda array: array, "sigmoid of several columns"),
        ("geometric_mean(a, b)", lambda array: array, "below 0"),
        ("mean(a, b)", lambda array: array.argmax(axis=-1), "labels, not scores"),
    ],
)
def test_what_has_no_convex_loss(text: str, change: object, why: str) -> None:
    scores, labels = drawn(40, 5)
    assert callable(change)
    with pytest.raises(Unfit, match=why):
        value(text, [change(array) for array in scores], labels)


def test_labels_that_do_not_fit() -> None:
    scores, labels = drawn(40, 5)
    for other in (labels + 1, labels[:20], np.full(40, "x"), labels + 0.5):
        with pytest.raises(Unfit):
            value("softmax(0.5 * a + 0.5 * b)", scores, other)


def test_every_sample_is_held_out_once_and_classes_are_spread() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 10])
    parts = list(folds(labels, 5, seed=2, stratified=True))
    assert sorted(np.concatenate([out for _, out in parts]).tolist()) == list(range(90))
    for kept, out in parts:
        assert not set(kept.tolist()) & set(out.tolist())
        assert np.bincount(labels[out]).tolist() == [10, 6, 2]
    again = list(folds(labels, 5, seed=2, stratified=True))
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(parts, again, strict=True))
    other = list(folds(labels, 5, seed=3, stratified=True))
    assert not all(np.array_equal(one[1], two[1]) for one, two in zip(parts, other, strict=True))
    with pytest.raises(GraphoptError, match="3 samples cannot be split into 4"):
        list(folds(labels[:3], 4, 0, stratified=False))
