from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from uneven_models import Array, applied, array, assert_equal, drawn_feeds, model_of

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.rewrite.grid import grid_for
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.quantize.smooth import Smooth


def feeds_of(model: ir.Model) -> Feeds:
    return drawn_feeds(model, 6, seed=5)


def apply(
    model: ir.Model, feeds: Feeds | None = None, **parameters: Any
) -> tuple[list[Rewrite], dict[str, str]]:
    return applied(Smooth(**parameters), model, Context(feeds=feeds or feeds_of(model)))


def check(
    text: str, smoothed: int, weights: Mapping[str, Array] | None = None, **parameters: Any
) -> tuple[ir.Model, ir.Model, list[Rewrite]]:
    before, after = (model_of(text, dict(weights or {})) for _ in range(2))
    rewrites, _ = apply(after, **parameters)
    assert len(rewrites) == smoothed
    assert_equal(before, after, feeds_of(before))
    return before, after, rewrites


def values_of(model: ir.Model, *names: str) -> list[Array]:
    found = Session(model, expose=names).run(next(feeds_of(model).batches(64)))
    return [np.asarray(found[name]) for name in names]


GAIN = np.array([1, 40, 1, 0.5, 1, 90, 1, 2.0])
ATTENTION = """
agraph (float[N,5,8] x, float[8] g, float[8] b, float[8,8] wq, float[8,8] wk, float[8,8] wv,
        float[8,8] wo) => (float[N,5,8] y) {
  n = LayerNormalization <axis = -1> (x, g, b)
  q = MatMul(n, wq)
  k0 = MatMul(n, wk)
  v = MatMul(n, wv)
  k = Transpose <perm = [0, 2, 1]> (k0)
  s = MatMul(q, k)
  p = Softmax(s)
  o = MatMul(p, v)
  a = MatMul(o, wo)
  y = Add(a, x)
}
"""


def test_query_key_and_value_share_what_goes_into_the_normalization() -> None:
    before, after, rewrites = check(ATTENTION, 2, {"g": GAIN}, alpha=0.5)
    first = rewrites[0]
    assert first.details["layers"] == 3
    (x,) = values_of(before, "n")
    largest = np.abs(x).max(axis=(0, 1)).astype(np.float64)
    rows = [np.abs(array(before, name)).max(axis=1) for name in ("wq", "wk", "wv")]
    scales = np.sqrt(largest / np.max(rows, axis=0))
    np.testing.assert_allclose(array(before, "g") / array(after, "g"), scales, rtol=1e-5)
    np.testing.assert_allclose(array(before, "b") / array(after, "b"), scales, rtol=1e-5)
    np.testing.assert_allclose(
        array(after, "wq") / array(before, "wq"), scales[:, None].repeat(8, 1), rtol=1e-5
    )


def quantized_error(model: ir.Model, value: str, weight: str) -> float:
    """The error of one layer with its input in uint8 and its weight in int8."""
    (x,) = values_of(model, value)
    matrix = array(model, weight)
    reach = np.abs(matrix).max(axis=0)
    inputs = grid_for(x.min(), x.max(), ir.DataType.UINT8, symmetric=False)
    stored = grid_for(-reach, reach, ir.DataType.INT8, symmetric=True, narrow=True, axis=1)
    wanted = x @ matrix
    error = np.square(inputs.nearest(x) @ stored.nearest(matrix) - wanted).mean()
    return float(error / np.square(wanted).mean())


def test_the_searched_alpha_brings_the_outputs_nearer() -> None:
    flat = np.random.default_rng(3).standard_normal((8, 8))
    given = {"g": GAIN, "wq": flat, "wk": flat, "wv": flat}
    before, after, rewrites = check(ATTENTION, 2, given)
    assert quantized_error(after, "n", "wq") < 0.5 * quantized_error(before, "n", "wq")
    gain = rewrites[0].details["gain_db"]
    assert isinstance(gain, float)
    assert gain > 3


DECOMPOSED = """
agraph (float[N,5,8] x, float[8] g, float[8] b, float[8,8] w1, float[8] b1, float[8,8] w2)
      => (float[N,5,8] y, float[N,5,8] z) <float two = {2.0}, float eps = {0.00001}> {
  m = ReduceMean <axes = [-1]> (x)
  d = Sub(x, m)
  sq = Pow(d, two)
  var = ReduceMean <axes = [-1]> (sq)
  shifted = Add(var, eps)
  root = Sqrt(shifted)
  unit = Div(d, root)
  scaled = Mul(unit, g)
  n = Add(scaled, b)
  y0 = MatMul(n, w1)
  y = Add(y0, b1)
  z = MatMul(n, w2)
}
"""


def test_a_normalization_in_primitive_operators_takes_the_scales() -> None:
    before, after, rewrites = check(DECOMPOSED, 1, {"g": GAIN}, alpha=0.6)
    assert rewrites[0].details["layers"] == 2
    ratio = array(before, "g") / array(after, "g")
    np.testing.assert_allclose(array(before, "b") / array(after, "b"), ratio, rtol=1e-5)
    assert ratio.max() / ratio.min() > 5


def test_a_gated_block_goes_through_the_branch_that_is_linear() -> None:
    before, after, _ = check(
        """
        agraph (float[N,5,8] x, float[8] g, float[8,12] wg, float[8,12] wu, float[12,8] wd)
              => (float[N,5,8] y) <float two = {2.0}, float eps = {0.00001}> {
          sq = Pow(x, two)
          mean = ReduceMean <axes = [-1]> (sq)
          shifted = Add(mean, eps)
          root = Sqrt(shifted)
          unit = Div(x, root)
          n = Mul(g, unit)
          gate = MatMul(n, wg)
          s = Sigmoid(gate)
          silu = Mul(gate, s)
          up = MatMul(n, wu)
          h = Mul(silu, up)
          d = MatMul(h, wd)
          y = Add(d, x)
        }
        """,
        2,
        {"g": GAIN},
        alpha=0.5,
    )
    # The up projection takes rows from the normalization and columns from the down projection.
    assert not np.allclose(array(after, "wd"), array(before, "wd"))
    columns = array(after, "wg") / array(before, "wg")
    np.testing.assert_allclose(columns, columns[:, :1].repeat(12, 1), rtol=1e-4)


BEHIND = """
agraph (float[N,5,8] x, float[8] g, float[8] b, float[8,8] w1, float[8,8] w2) => (float[N,5,8] y) {
  n = LayerNormalization <axis = -1> (x, g, b)
  h = MatMul(n, w1)
  k = MatMul(n, w2)
  s = Add(h, k)
  e = Tanh(s)
  y = Add(e, n)
}
"""


def test_a_residual_behind_the_normalization_is_declined_or_gets_a_mul() -> None:
    model = model_of(BEHIND, {"g": GAIN})
    rewrites, declined = apply(model, alpha=0.5)
    assert not rewrites
    assert "Tanh" in declined["h"] or "output of the graph" in declined["h"]
    assert "k" in declined
    before, after, rewrites = check(BEHIND, 1, {"g": GAIN}, alpha=0.5, insert=True)
    assert [node.op_type for node in after.graph].count("Mul") == 1
    assert rewrites[0].details["layers"] == 2
    np.testing.assert_array_equal(array(after, "g"), array(before, "g"))
    (x,) = values_of(before, "n")
    (smoothed,) = values_of(after, "n_smoothed")
    spread = lambda a: np.abs(a).max(axis=(0, 1)).max() / np.median(np.abs(a).max(axis=(0, 1)))  # noqa: E731
    assert spread(smoothed) < 0.5 * spread(x)


def test_gemm_behind_a_batch_normalization_and_a_linear_layer() -> None:
    check(
        """
        agraph (float[N,6] x, float[8,6] w0, float[8] b0, float[8] g, float[8] b, float[8] m,
                float[8] v, float[5,8] w1, float[5] b1, float[5,7] w2) => (float[N,7] y) {
          h = Gemm <transB = 1> (x, w0, b0)
          n = BatchNormalization(h, g, b, m, v)
          r = Relu(n)
          d = Gemm <transB = 1> (r, w1, b1)
          y = MatMul(d, w2)
        }
        """,
        2,
        {"v": np.full(8, 1.5), "g": GAIN},
        alpha=0.5,
    )


def test_dead_channels_stay() -> None:
    gain, shift = GAIN.copy(), np.ones(8)
    gain[3] = shift[3] = 0
    before, after, _ = check(ATTENTION, 2, {"g": gain, "b": shift}, alpha=0.5)
    np.testing.assert_array_equal(array(after, "wq")[3], array(before, "wq")[3])


def test_without_data_one_line_says_what_to_give() -> None:
    model = model_of(ATTENTION)
    with pytest.raises(GraphoptError, match="smooth needs data") as caught:
        list(Smooth().rewrites(model, Context()))
    assert "--data" in str(caught.value)


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"activations": "float"}, {"weights": "int9"}])
def test_parameters_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(GraphoptError, match=next(iter(wrong))):
        Smooth(**wrong)


def test_selection() -> None:
    model = model_of(ATTENTION, {"g": GAIN})
    rewrites, _ = apply(model, alpha=0.5, include="a")
    assert [rewrite.at for rewrite in rewrites] == ["a"]


def test_bodies_are_smoothed_too() -> None:
    check(
        """
        agraph (float[N,8] x, float[8] g, float[8] b, float[8,4] w1, float[8,4] w2)
              => (float[N,4] y) {
          zero = Constant <value_float = 0.0> ()
          s = ReduceSum <keepdims = 0> (x)
          c = Less(s, zero)
          y = If (c) <
            then_branch = then () => (float[N,4] t) {
              n = LayerNormalization <axis = -1> (x, g, b)
              t = MatMul(n, w1) },
            else_branch = other () => (float[N,4] e) { e = MatMul(x, w2) }
          >
        }
        """,
        1,
        {"g": GAIN},
        alpha=0.5,
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_layer_with_nan_or_infinity_in_its_weight_stays(
    alpha: float | None, insert: bool, broken: float
) -> None:
    text = """
    agraph (float[N,8] x, float[8] g, float[8] b, float[8,8] w) => (float[N,8] y) {
      n = LayerNormalization <axis = -1> (x, g, b)
      y = MatMul(n, w)
    }
    """
    weight = np.ones((8, 8))
    weight[1, 2] = broken
    rewrites, declined = apply(model_of(text, {"w": weight}), alpha=alpha, insert=insert)
    assert not rewrites
    assert ["holds NaN or infinity" in why for why in declined.values()] == [True]
