from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from equalized import apply, check, feeds_of, widths
from hypothesis import given, settings
from hypothesis import strategies as st
from uneven_models import array, model_of

from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.cleanup import Cleanup
from passes.quantize.equalize import Equalize

ROOT = Path(__file__).resolve().parents[3]
PAIR = """
agraph (float[N,3,8,8] x, float[6,3,3,3] w1, float[6] b1, float[4,6,3,3] w2) => (float[N,4,4,4] y) {
  c = Conv(x, w1, b1)
  r = Relu(c)
  y = Conv(r, w2)
}
"""


def test_both_sides_of_a_pair_become_equally_wide() -> None:
    before, after = model_of(PAIR), check(PAIR, 1)
    first, second = array(after, "w1"), array(after, "w2")
    np.testing.assert_allclose(widths(first, 0), widths(second, 1), rtol=1e-5)
    expected = np.sqrt(widths(array(before, "w1"), 0) * widths(array(before, "w2"), 1))
    np.testing.assert_allclose(widths(first, 0), expected, rtol=1e-5)
    scale = widths(array(before, "w1"), 0) / widths(first, 0)
    np.testing.assert_allclose(array(after, "b1") * scale, array(before, "b1"), rtol=1e-5)


def test_again_changes_nothing() -> None:
    model = check(PAIR, 1)
    rewrites, _ = apply(model)
    assert not rewrites


def test_powers_of_two_round_no_weight() -> None:
    before, after = model_of(PAIR), check(PAIR, 1, powers_of_two=True)
    ratio = array(after, "w1") / array(before, "w1")
    assert (np.exp2(np.rint(np.log2(ratio))) == ratio).all()
    assert len(np.unique(ratio)) > 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w1", "w2"])
def test_channels_of_a_weight_with_nan_or_infinity_stay(name: str, broken: float) -> None:
    weights = {"w1": np.ones((6, 3, 3, 3)), "w2": np.ones((4, 6, 3, 3))}
    weights[name][0, 1, 2, 0] = broken
    rewrites, declined = apply(model_of(PAIR, weights))
    assert not rewrites
    assert any("holds NaN or infinity" in why for why in declined.values())


def test_zero_channels_stay() -> None:
    w1 = np.random.default_rng(3).standard_normal((6, 3, 3, 3))
    w2 = np.random.default_rng(4).standard_normal((4, 6, 3, 3))
    w1[2] = 0
    w2[:, 4] = 0
    model = check(PAIR, 1, {"w1": w1, "w2": w2})
    np.testing.assert_array_equal(array(model, "w1")[4], w1[4].astype(np.float32))
    np.testing.assert_array_equal(array(model, "w2")[:, 2], w2[:, 2].astype(np.float32))


def test_shared_weights_are_scaled_once_or_not_at_all() -> None:
    text = """
        agraph (float[N,6] x, float[6,6] w, float[6,4] v) => (float[N,4] y) {
          a = MatMul(x, w)
          b = Relu(a)
          c = MatMul(b, w)
          d = Relu(c)
          y = MatMul(d, v)
        }
    """
    _, declined = apply(model_of(text))
    assert "w is" in declined["a"]
    check(text, 0)
    check(
        """
        agraph (float[N,6] x, float[6,6] w, float[6,4] v) => (float[N,4] y) {
          e = Exp(x)
          a = MatMul(x, w)
          b = MatMul(e, w)
          c = Max(a, b)
          y = MatMul(c, v)
        }
        """,
        1,
    )


def test_bodies_are_covered() -> None:
    model = check(
        """
        agraph (float[N,6] x, float[6,6] w, float[6,4] v) => (float[N,4] y) {
          s = ReduceSum <keepdims = 0> (x)
          zero = Constant <value_float = 0.0> ()
          c = Less(s, zero)
          y = If (c) <
            then_branch = then () => (float[N,4] t) {
              a = MatMul(x, w) b = Relu(a) t = MatMul(b, v) },
            else_branch = other () => (float[N,4] e) {
              k = Constant <value = float[6,4] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}> ()
              e = MatMul(x, k) }
          >
        }
        """,
        1,
    )
    assert model.graph.initializers


def test_selection_and_parameters() -> None:
    model = model_of(PAIR)
    assert not apply(model, exclude="w1")[0]
    assert not apply(model, op_types="Gemm")[0]
    assert apply(model, include="c")[0]
    with pytest.raises(GraphoptError, match="iterations"):
        Equalize(iterations=0)


def test_what_is_excluded_keeps_all_that_would_have_to_follow() -> None:
    text = """
        agraph (float[N,6] x, float[6,6] w0, float[6,6] w1, float[6,4] w2) => (float[N,4] y) {
          a = MatMul(x, w0)
          b = MatMul(x, w1)
          c = Add(a, b)
          y = MatMul(c, w2)
        }
    """
    assert apply(model_of(text))[0]
    rewrites, declined = apply(model_of(text), exclude="w1")
    assert not rewrites
    assert declined["a"] == "its channels stay: b does"


def test_with_data_a_channel_that_seldom_fires_does_not_widen_the_activations() -> None:
    w1 = np.random.default_rng(0).standard_normal((6, 3, 3, 3))
    w1[4] *= 1e-6
    weights = {"w1": w1, "b1": np.array([0, 0, 0, 0, 1.0, 0])}
    widest = []
    for feeds in (None, feeds_of(model_of(PAIR))):
        model = model_of(PAIR, weights)
        apply(model, feeds)
        session = Session(model, expose=["r"])
        widest.append(float(session.run(next(feeds_of(model).batches()))["r"].max()))
    before = Session(model_of(PAIR, weights), expose=["r"])
    was = float(before.run(next(feeds_of(model_of(PAIR)).batches()))["r"].max())
    assert widest[0] > 10 * was
    assert widest[1] < 2 * was


def test_half_precision_stays_in_range() -> None:
    weights = {"w1": np.full((6, 3, 3, 3), 6e4), "w2": np.full((4, 6, 3, 3), 1e-4)}
    model = model_of(PAIR.replace("float[", "float16["), weights)
    before = array(model, "w2").astype(np.float64)
    apply(model)
    assert np.isfinite(array(model, "w1").astype(np.float64)).all()
    assert (array(model, "w2").astype(np.float64) >= before).all()


_STEPS = ("Relu", "LeakyRelu", "Abs", "Identity", "MaxPool", "Transpose", "Residual", "Depthwise")


@settings(max_examples=40)
@given(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=7), st.integers(0, 99))
def test_random_chains_stay_equal(steps: list[str], seed: int) -> None:
    declared, nodes, last, kept = ["float[6,3,1,1] w0"], ["v0 = Conv(x, w0)"], "v0", "v0"
    for place, step in enumerate(steps, 1):
        value = f"v{place}"
        if step == "MaxPool":
            nodes.append(f"{value} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({last})")
        elif step == "Transpose":
            nodes.append(f"{value} = Transpose <perm = [0, 1, 3, 2]> ({last})")
        elif step == "Residual":
            nodes.append(f"{value} = Add({last}, {kept})")
        elif step == "Depthwise":
            declared += [f"float[6,1,1,1] w{place}", f"float[6] b{place}"]
            nodes.append(f"{value} = Conv <group = 6> ({last}, w{place}, b{place})")
            kept = value
        else:
            nodes.append(f"{value} = {step}({last})")
        last = value
    text = (
        f"agraph (float[N,3,5,5] x, {', '.join(declared)}, float[4,6,1,1] wl)"
        f" => (float[N,4,5,5] y) {{ {' '.join(nodes)} y = Conv({last}, wl) }}"
    )
    before, after = model_of(text, seed=seed), model_of(text, seed=seed)
    apply(after)
    for error in compare(before, after, feeds_of(before)):
        assert error.equal, error


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_resnet", "digits_separable"])
def test_fixtures_stay_equal(name: str) -> None:
    before, after = (load(ROOT / "fixtures" / f"{name}.onnx") for _ in range(2))
    for step in Cleanup().rewrites(after, Context()):
        if isinstance(step, Rewrite):
            step.apply()
    rewrites, _ = apply(after)
    assert rewrites
    with np.load(ROOT / "fixtures" / "digits_test.npz") as data:
        feeds = Feeds({key: data[key][:200] for key in data.files if key != "labels"})
    for error in compare(before, after, feeds):
        assert error.equal, error
