from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.layout import Input
from graphopt.runtime.metrics import open_metric
from passes.quantize.plan.asked import asked
from passes.quantize.plan.damage import Bounds, Damage, Gauge
from passes.quantize.plan.output_damage import meant, rank_correlation
from passes.quantize.plan.scores import score_outputs
from passes.quantize.quantize import Quantize

SCORES = np.eye(4, dtype=np.float32)[np.arange(40) % 4] * 3
LABELS = np.arange(40) % 4


def identity(batch):
    return {"y": batch["x"]}


def gauge(run=identity, *, scores=("y",), outputs=("y",), metric=None, **kwargs):
    feeds = Feeds({"x": SCORES}, labels=LABELS)
    feeds = feeds.for_model([Input("x", ir.DataType.FLOAT, ("N", 4))])
    return Gauge(run, outputs, scores, feeds, batch=16, metric=metric, **kwargs)


def test_no_difference_is_no_damage():
    damage = gauge(metric=open_metric("accuracy")).damage(identity)
    assert damage == Damage(math.inf, 1.0, 0.0)
    assert Bounds(200.0, 1.0, 0.0).objection(damage) is None


def test_measures_noise_winners_and_metric():
    def worse(batch):
        x = batch["x"].copy()
        x[0] = x[0][::-1]  # one row of each of the three batches has another winner
        return {"y": x}

    damage = gauge(metric=open_metric("accuracy")).damage(worse)
    assert damage.agreement == pytest.approx(37 / 40)
    assert damage.drop == pytest.approx(3 / 40)
    assert damage.sqnr_db == pytest.approx(10 * math.log10(40 / 6))
    assert damage.noise == pytest.approx(6 / 40)


def test_rows_that_are_no_scores_have_no_winners():
    assert gauge(scores=()).damage(identity).agreement is None


def test_an_output_of_one_number_a_sample_keeps_its_order():
    def single(batch):
        return {"y": batch["x"] @ np.arange(4, dtype=np.float32)[:, None] + batch["x"][:, :1]}

    assert gauge(single, scores=()).damage(single).order == pytest.approx(1.0)
    ties = gauge(single, scores=()).damage(lambda batch: {"y": np.minimum(single(batch)["y"], 4)})
    assert ties.order is not None
    assert 0.8 < ties.order < 0.99
    assert "rank correlation" in (Bounds(min_order=0.998).objection(ties) or "")
    assert Bounds(min_order=0.998).load(ties) > 1
    assert gauge(scores=()).damage(identity).order is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=8, max_size=40))
def test_rank_correlation_is_spearman_s(pairs):
    one, other = np.array(pairs, np.float64).T
    found = rank_correlation(one, other)
    if np.ptp(one) and np.ptp(other):
        assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


def test_padding_does_not_count():
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.int64)
    one, other = np.ones((2, 3, 4)), np.ones((2, 3, 4))
    other[0, 2] = other[1, 1] = np.nan
    want, have = meant({"attention_mask": mask}, one, other)
    assert np.array_equal(want, have)
    assert want.shape == (3, 4)
    for samples in ({}, {"ids": mask}, {"mask": mask * 0}, {"mask": mask[:1]}):
        assert meant(samples, one, other)[0] is one


def test_shares_that_add_up_to_one_are_scores():
    def shares(batch):
        return {"y": np.exp(batch["x"]) / np.exp(batch["x"]).sum(axis=-1, keepdims=True)}

    assert gauge(shares, scores=()).damage(shares).agreement == 1.0


def test_a_metric_that_does_not_fit_may_be_done_without():
    def embed(batch):
        return {"y": batch["x"][:, :2]}

    with pytest.raises(GraphoptError, match="labels"):
        gauge(embed, metric=open_metric("accuracy"))
    found = gauge(embed, metric=open_metric("accuracy"), optional=True)
    assert found.damage(embed).drop is None


def test_integers_agree_or_not():
    def classes(batch, shift=0):
        return {"y": (batch["x"].argmax(axis=1) + shift * (batch["x"][:, 0] > 0)) % 4}

    found = gauge(classes, scores=()).damage(lambda batch: classes(batch, 1))
    assert found.agreement == pytest.approx(0.75)
    assert found.sqnr_db == math.inf


def test_what_depends_on_the_data_may_not_fit():
    def boxes(batch):
        return {"y": np.flatnonzero(batch["x"][:, 0] > 0)}

    found = gauge(boxes, scores=()).damage(lambda batch: {"y": boxes(batch)["y"][1:]})
    assert found.agreement == 0.0
    floats = gauge(scores=()).damage(lambda batch: {"y": batch["x"][1:]})
    assert floats.sqnr_db == -math.inf


def test_lost_numbers_are_beyond_all_bounds():
    damage = gauge().damage(lambda batch: {"y": np.full_like(batch["x"], np.nan)})
    assert Bounds(min_sqnr=0.0).objection(damage) is not None


def test_silence_has_no_noise():
    silent = gauge(lambda batch: {"y": batch["x"] * 0}, scores=())
    assert silent.damage(lambda batch: {"y": batch["x"] * 0}).sqnr_db == math.inf
    assert silent.damage(lambda batch: {"y": batch["x"] * 1e-5}).sqnr_db == math.inf
    assert silent.damage(identity).sqnr_db == -math.inf


def test_a_model_that_does_not_run_says_why():
    def broken(batch):
        raise CheckFailed("no kernel")

    damage = gauge().damage(broken)
    assert Bounds().objection(damage) == "no kernel"
    assert damage.noise == math.inf


def test_quick_looks_at_some_batches_and_no_metric():
    seen = []

    def count(batch):
        seen.append(len(batch["x"]))
        return identity(batch)

    damage = gauge(metric=open_metric("accuracy")).damage(count, batches=1)
    assert seen == [16]
    assert damage.drop is None


def test_outputs_that_fill_the_memory_end_the_samples():
    found = gauge(metric=open_metric("accuracy"), memory=16 * 16 + 1)
    assert found.count == 16
    assert found.damage(identity).drop == 0.0


@pytest.mark.parametrize(
    ("damage", "bounds", "says"),
    [
        (Damage(19.0), Bounds(min_sqnr=20), "SQNR 19.0 dB is under 20"),
        (Damage(math.nan), Bounds(min_sqnr=20), "SQNR nan"),
        (Damage(30.0, 0.9), Bounds(min_agreement=0.98), "agreement 0.9000"),
        (Damage(30.0, None), Bounds(min_agreement=0.98), None),
        (Damage(30.0, 1.0, 0.006), Bounds(max_drop=0.005), "drops by 0.0060, over 0.005"),
        (Damage(30.0, 1.0, 1 / 200 + 1e-16), Bounds(max_drop=0.005), None),
        (Damage(30.0, 1.0, math.nan), Bounds(max_drop=0.005), "drops by nan"),
        (Damage(30.0, 0.98, 0.010), Bounds(max_drop=0.005, rows=200), None),
        (Damage(30.0, 0.98, 0.015), Bounds(max_drop=0.005, rows=200), "over 0.01"),
        (Damage(30.0, 0.98, 0.010), Bounds(max_drop=0.005, rows=20000), "over 0.005"),
    ],
)
def test_bounds(damage, bounds, says):
    found = bounds.objection(damage)
    assert found is None if says is None else says in (found or "")


@pytest.mark.parametrize(
    ("tail", "scores"),
    [
        ("y = Softmax (h)", True),
        ("z = Softmax (h) y = Identity (z)", True),
        ("y = MatMul (h, w)", True),
        ("z = MatMul (h, w) y = Add (z, b)", True),
        ("y = Gemm (h, w, b)", True),
        ("z = MatMul (h, w) y = Tanh (z)", False),
        ("y = LayerNormalization (h, b)", False),
        ("y = Relu (h)", False),
    ],
)
def test_scores_are_what_classes_win_by(tail, scores):
    model = ir.from_onnx_text(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        main (float[N, 2] h) => (float[N, 2] y)
        <float[2, 2] w = {{1, 2, 3, 4}}, float[2] b = {{1, 2}}> {{ {tail} }}
        """
    )
    assert score_outputs(model) == (frozenset({"y"}) if scores else frozenset())


@pytest.mark.parametrize(("samples", "agreement"), [(24, 23 / 24), (49, 48 / 49), (1000, 0.98)])
def test_one_of_few_samples_may_get_another_winner(samples: int, agreement: float) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
    )
    data = np.random.default_rng(0).random((samples, 4), np.float32)
    bounds = asked(Quantize(), model, Context(feeds=Feeds({"x": data}))).bounds
    assert bounds.objection(Damage(40.0, agreement)) is None
    assert bounds.objection(Damage(40.0, agreement - 1 / samples)) is not None
