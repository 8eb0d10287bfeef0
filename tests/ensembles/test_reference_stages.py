"""Cascades, stacks, subsets and flips in numpy, against formulas over the members' outputs."""

from __future__ import annotations

import numpy as np
import pytest
from reference_models import (
    BATCHES,
    MEMBERS,
    A,
    drawn,
    model_of,
    own_outputs,
    softmax,
)

from graphopt.ensembles.reference import evaluate


def _confidences(p: np.ndarray, rule: str) -> np.ndarray:
    top = np.sort(p, -1)
    if rule == "margin":
        return top[:, -1] - top[:, -2]
    if rule == "entropy":
        return 1 + (p * np.log(p)).sum(-1) / np.log(p.shape[-1])
    return top[:, -1]


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("rule", ["max_probability", "margin", "entropy"])
def test_a_cascade_takes_each_row_from_the_first_sure_stage(rule: str, rows: int):
    x = drawn(rows)
    a, b, c = map(softmax, own_outputs(x))
    text = f"cascade(softmax(a), softmax(b), softmax(c), confidence=[0.7, 0.5], rule={rule!r})"
    (found,) = evaluate(text, MEMBERS, {"x": x}).values()
    sure_a, sure_b = _confidences(a, rule) >= 0.7, _confidences(b, rule) >= 0.5
    expected = np.where(sure_a[:, None], a, np.where(sure_b[:, None], b, c))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


COUNTER = model_of(
    """
    m (float[N, 4] x) => (float[N, 3] y) <int64[1] all = {-1}, float[1, 3] ones = {1, 1, 1}> {
        s = Shape<start = 0, end = 1>(x)
        n = Cast<to = 1>(s)
        z = Mul(n, ones)
        e = Slice(x, zero, three, one)
        q = IsNaN(e)
        f = Cast<to = 1>(q)
        m0 = Mul(f, nil)
        y = Add(m0, z)
    }""".replace(
        "<int64[1] all = {-1},",
        "<int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}, float nil = {0},",
    )
)


def test_a_later_stage_sees_the_unsure_rows_only():
    x = drawn(32)
    p = softmax(own_outputs(x)[0])
    unsure = ~(p.max(-1) >= 0.6)
    assert 0 < unsure.sum() < 32
    members = {**MEMBERS, "counter": COUNTER}
    (found,) = evaluate("cascade(softmax(a), counter, confidence=0.6)", members, {"x": x}).values()
    np.testing.assert_allclose(found[~unsure], p[~unsure], rtol=1e-5)
    np.testing.assert_array_equal(found[unsure], np.full((unsure.sum(), 3), unsure.sum()))
    (nested,) = evaluate(
        "cascade(softmax(a), cascade(softmax(b), counter, confidence=0.6), confidence=0.6)",
        members, {"x": x},
    ).values()  # fmt: skip
    both = unsure & ~(softmax(own_outputs(x)[1]).max(-1) >= 0.6)
    np.testing.assert_array_equal(nested[both], np.full((both.sum(), 3), both.sum()))


def test_nan_is_unsure():
    x = drawn(4)
    x[2] = np.nan
    found = evaluate("cascade(softmax(a), counter, confidence=0)", {"a": A, "counter": COUNTER},
                     {"x": x})["y"]  # fmt: skip
    np.testing.assert_array_equal(found[2], [1, 1, 1])
    assert (found[[0, 1, 3]].sum(-1) < 1.001).all()


def test_a_stack_feeds_rows_of_all_outputs():
    x = drawn(5)
    a, b, _ = own_outputs(x)
    meta = model_of(
        """
        m (float[N, 10] rows) => (float[N, 1] z) <int64[1] axis = {1}> {
            z = ReduceMax<keepdims = 1>(rows, axis)
        }""".replace("ReduceMax<keepdims = 1>(rows, axis)", "ReduceSum<keepdims = 1>(rows, axis)")
    )
    found = evaluate("stack(a, b, meta=m, passthrough=True)", {**MEMBERS, "m": meta}, {"x": x})["z"]
    expected = np.concatenate([x, a, b], 1).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_subset_sees_its_columns():
    x = drawn(5)
    narrow = model_of("m (float[N, K] x) => (float[N, K] y) { y = Neg(x) }")
    found = evaluate("subset(n, [3, 0])", {"n": narrow}, {"x": x})["y"]
    np.testing.assert_array_equal(found, -x[:, [3, 0]])
    bag = evaluate("bag(n, n, columns=[[0, 1], [2, 3]])", {"n": narrow}, {"x": x})["y"]
    np.testing.assert_allclose(bag, -(x[:, :2] + x[:, 2:]) / 2, rtol=1e-6)


IMAGE = model_of("""
    m (float[N, 1, 3, 4] image) => (float[N, 1, 3, 4] map, float[N, 4] columns) <
        float[1, 1, 3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int64[2] axes = {1, 2}> {
        map = Mul(image, w)
        columns = ReduceSum<keepdims = 0>(map, axes)
    }""")


@pytest.mark.parametrize("rows", BATCHES)
def test_flips_are_averaged_and_maps_flipped_back(rows: int):
    image = np.random.default_rng(0).normal(size=(rows, 1, 3, 4)).astype(np.float32)
    found = evaluate("tta(m, 'flip', 'vertical', 'both')", {"m": IMAGE}, {"image": image})
    w = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    flips = [(), (3,), (2,), (2, 3)]
    maps = [np.flip(np.flip(image, axes) * w, axes) for axes in flips]
    columns = [(np.flip(image, axes) * w).sum((1, 2)) for axes in flips]
    np.testing.assert_allclose(found["map"], sum(maps) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["columns"], sum(columns) / 4, rtol=1e-4, atol=1e-5)
