from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uneven_models import HEADER, Array, applied, array, model_of

from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.pipeline.manager import run
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.weights import Weight, weights
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.cleanup import Cleanup
from passes.quantize.products import Product, product
from passes.quantize.round_weights import RoundWeights
from passes.quantize.weights import QuantizeWeights

ROOT = Path(__file__).resolve().parents[3]


def correlated(*shape: int, axis: int = -1, seed: int = 1) -> Array:
    """Draw numbers whose channels go together, as activations do."""
    rng = np.random.default_rng(seed)
    drawn = np.moveaxis(rng.standard_normal(shape), axis, -1)
    mixed = drawn @ np.cumsum(rng.standard_normal((shape[axis], shape[axis])), axis=0)
    return np.moveaxis(mixed, -1, axis).astype(np.float32)


def apply(
    model: ir.Model, feeds: Feeds, memory: int = 256 << 20, **parameters: Any
) -> tuple[list[Rewrite], dict[str, str]]:
    context = Context(feeds=feeds, calibration_memory=memory)
    return applied(RoundWeights(**parameters), model, context)


def error(before: ir.Model, after: ir.Model, feeds: Feeds) -> float:
    (one,) = compare(before, after, feeds)
    return one.rms**2 * one.elements


DENSE = """
agraph (float[N,48] x, float[48,20] w, float[20] b, float[11,20] v) => (float[N,11] y) {
  a = MatMul(x, w)
  s = Add(a, b)
  r = Relu(s)
  y = Gemm <transB = 1> (r, v)
}
"""


def plain(text: str, seed: int = 0) -> ir.Model:
    """A model whose weights are all as wide."""
    rng = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(HEADER + text)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    }
    return model_of(text, {name: rng.standard_normal(s) for name, s in shapes.items()})


@pytest.mark.parametrize(
    "said",
    [
        {"dtype": "int4"},
        {"dtype": "uint4", "symmetric": False},
        {"dtype": "int4", "granularity": "channel"},
        {"dtype": "int4", "granularity": "tensor"},
        {"dtype": "int4", "block_size": 16, "ordered": False},
        {"dtype": "int8"},
    ],
)
def test_outputs_are_nearer_than_with_nearest_numbers(said: dict[str, Any]) -> None:
    feeds = Feeds({"x": correlated(256, 48)})
    before, near, after = plain(DENSE), plain(DENSE), plain(DENSE)
    plainly = {key: value for key, value in said.items() if key != "ordered"}
    near = run(near, [QuantizeWeights(min_size=0, **plainly)]).model
    rewrites, declined = apply(after, feeds, **said)
    assert not declined
    assert [rewrite.at for rewrite in rewrites] == ["w", "v"]
    assert error(before, after, feeds) < 0.5 * error(before, near, feeds)
    for one in weights(after):
        assert isinstance(one, Weight)
        grid = one.value.meta["graphopt.grid"]
        assert isinstance(grid, Grid)
        assert grid.holds(one.tensor.numpy())


@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_the_pass_that_stores_weights_takes_the_grid(dtype: Any) -> None:
    feeds = Feeds({"x": correlated(64, 48)})
    context = Context(feeds=feeds)
    rounded = run(plain(DENSE), [RoundWeights(dtype=dtype)], context).model
    stored = run(
        plain(DENSE), [RoundWeights(dtype=dtype), QuantizeWeights(dtype=dtype, min_size=0)], context
    ).model
    for session in (Session(stored), Session(stored, optimization="none")):
        found = session.run({"x": feeds.arrays["x"]})["y"]
        wanted = Session(rounded).run({"x": feeds.arrays["x"]})["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-2 * np.abs(wanted).max())
    exact = Session(stored, optimization="none").run({"x": feeds.arrays["x"]})["y"]
    np.testing.assert_allclose(exact, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def convolution(
    channels: int, outputs: int, groups: int, kernel: int, stride: int, dilation: int, pad: str
) -> str:
    pads = {"SAME_UPPER": 'auto_pad = "SAME_UPPER"', "SAME_LOWER": 'auto_pad = "SAME_LOWER"'}
    padding = pads.get(pad, f"pads = [{pad}]")
    return f"""
    agraph (float[N,{channels},9,7] x, float[{outputs},{channels // groups},{kernel},{kernel}] w)
          => (float[N,{outputs},P,Q] y) {{
      y = Conv <group = {groups}, strides = [{stride}, {stride}],
                dilations = [{dilation}, {dilation}], {padding}> (x, w)
    }}
    """


@settings(max_examples=25)
@given(
    groups=st.sampled_from([1, 2, 6]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pad=st.sampled_from(["0,0,0,0", "1,0,2,1", "SAME_UPPER", "SAME_LOWER"]),
)
def test_moments_of_patches_say_what_a_convolution_loses(
    groups: int, kernel: int, stride: int, dilation: int, pad: str
) -> None:
    if pad.startswith("SAME") and dilation > 1:
        dilation = 1
    text = convolution(6, 12, groups, kernel, stride, dilation, pad)
    model = plain(text)
    (weight,) = weights(model)
    assert isinstance(weight, Weight)
    found = product(weight, weight.uses[0])
    assert isinstance(found, Product)
    x = correlated(5, 6, 9, 7, axis=1)
    whole, first, second = found.moments(), found.moments(), found.moments()
    whole.update(x)
    first.update(x[:2])
    second.update(x[2:])
    first.merge(second)
    copy = found.moments()
    copy.restore(first.state())
    np.testing.assert_allclose(copy.sums, whole.sums, rtol=1e-4, atol=1e-3)
    change = np.random.default_rng(2).standard_normal(array(model, "w").shape).astype(np.float32)
    moved = Session(model_of(text, {"w": change})).run({"x": x})["y"]
    matrices = found.matrices(change.astype(np.float64))
    lost = sum(float(((one @ h) * one).sum()) for one, h in zip(matrices, whole.sums, strict=True))
    np.testing.assert_allclose(lost, np.square(moved, dtype=np.float64).sum(), rtol=1e-3)
    np.testing.assert_array_equal(found.stored(found.matrices(change)), change)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("granularity", ["channel", "block"])
def test_convolutions_and_their_groups(groups: int, granularity: Any) -> None:
    text = convolution(96, 48, groups, 3, 1, 1, "1,1,1,1")
    before, near, after = plain(text), plain(text), plain(text)
    feeds = Feeds({"x": correlated(12, 96, 9, 7, axis=1)})
    said: dict[str, Any] = {"dtype": "int4", "granularity": granularity, "block_size": 16}
    near = run(near, [QuantizeWeights(min_size=0, **said)]).model
    apply(after, feeds, **said)
    assert error(before, after, feeds) < 0.6 * error(before, near, feeds)


def test_a_shared_weight_is_rounded_for_all_its_layers() -> None:
    model = plain(
        """
        agraph (float[N,24] x, float[24,24] w) => (float[N,24] y) {
          a = MatMul(x, w)
          b = Tanh(a)
          c = MatMul(b, w)
          y = Tanh(c)
        }
        """
    )
    rewrites, declined = apply(model, Feeds({"x": correlated(64, 24)}), dtype="int4")
    assert [rewrite.at for rewrite in rewrites] == ["w"]
    assert not declined


def test_what_never_runs_goes_to_the_nearest_numbers() -> None:
    text = """
        agraph (float[N,20] x, float[20,20] w, float[20,20] v) => (float[N,20] y) {
          s = ReduceSum <keepdims = 0> (x)
          big = Constant <value_float = 1e9> ()
          c = Less(s, big)
          y = If (c) <
            then_branch = then () => (float[N,20] t) { t = MatMul(x, w) },
            else_branch = other () => (float[N,20] e) { r = Tanh(x) e = MatMul(r, v) }
          >
        }
    """
    model = plain(text)
    rewrites, declined = apply(model, Feeds({"x": correlated(64, 20)}), dtype="int4")
    said = {rewrite.at: rewrite.why for rewrite in rewrites} | declined
    assert "nearest numbers" in said["v"]
    assert "no data reach it" in said["v"]
    assert "output error -" in said["w"]


def test_inputs_that_are_always_zero_leave_their_weights_nearest() -> None:
    x = correlated(64, 48)
    x[:, 7] = 0
    model, original = plain(DENSE), plain(DENSE)
    apply(model, Feeds({"x": x}), dtype="int8")
    grid = next(iter(weights(model))).value.meta["graphopt.grid"]  # type: ignore[union-attr] # a weight
    nearest = grid.nearest(array(original, "w"))
    np.testing.assert_array_equal(array(model, "w")[7], nearest[7])


def test_half_precision() -> None:
    text = DENSE.replace("float[", "float16[")
    before, after = plain(text), plain(text)
    feeds = Feeds({"x": correlated(64, 48).astype(np.float16) / 8})
    rewrites, _ = apply(after, feeds, dtype="int8")
    assert len(rewrites) == 2
    assert array(after, "w").dtype == np.float16
    assert compare(before, after, feeds)[0].sqnr_db > 25
    stored = run(after, [QuantizeWeights(min_size=0)]).model
    assert compare(after, stored, feeds)[0].sqnr_db > 40


def test_moments_beyond_the_memory_are_declined_and_others_come_in_turns() -> None:
    feeds = Feeds({"x": correlated(64, 48)})
    model = plain(DENSE)
    rewrites, declined = apply(model, feeds, memory=48 * 48 * 8 - 1)
    assert [rewrite.at for rewrite in rewrites] == ["v"]
    assert "--calibration-memory" in declined["w"]
    once, turns = plain(DENSE), plain(DENSE)
    apply(once, feeds)
    rewrites, _ = apply(turns, feeds, memory=48 * 48 * 8)
    assert len(rewrites) == 2
    np.testing.assert_array_equal(array(once, "w"), array(turns, "w"))


def test_other_layers_are_declined() -> None:
    model = plain(
        """
        agraph (float[4,N,6] x, float[1,32,6] w, float[1,32,8] r) => (float[4,1,N,8] y) {
          y, h, c = LSTM <hidden_size = 8> (x, w, r)
        }
        """
    )
    rewrites, declined = apply(model, Feeds({"x": correlated(4, 3, 6)}))
    assert not rewrites
    assert "LSTM" in declined["w"]
    assert "LSTM" in declined["r"]


def test_selection() -> None:
    model = plain(DENSE)
    rewrites, _ = apply(model, Feeds({"x": correlated(16, 48)}), op_types="Gemm")
    assert [rewrite.at for rewrite in rewrites] == ["v"]
    rewrites, _ = apply(model, Feeds({"x": correlated(16, 48)}), exclude="v")
    assert [rewrite.at for rewrite in rewrites] == ["w"]


def test_without_data_one_line_says_what_to_give() -> None:
    with pytest.raises(GraphoptError, match="round_weights needs data") as caught:
        list(RoundWeights().rewrites(plain(DENSE), Context()))
    assert "--data" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "int9"}, {"granularity": "row"}, {"block_size": 3}, {"damping": 0}, {"samples": 0}],
)
def test_parameters_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(GraphoptError, match=next(iter(wrong))):
        RoundWeights(**wrong)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_resnet", "digits_separable"])
def test_fixtures_at_four_bits(name: str) -> None:
    model = load(ROOT / "fixtures" / f"{name}.onnx")
    data = {}
    for part in ("calibration", "test"):
        with np.load(ROOT / "fixtures" / f"digits_{part}.npz") as arrays:
            data[part] = Feeds({key: arrays[key] for key in arrays.files if key != "labels"})
    context = Context(feeds=data["calibration"])
    said: dict[str, Any] = {"dtype": "int4", "granularity": "channel"}
    near = run(model, [Cleanup(), QuantizeWeights(min_size=0, **said)], context).model
    after = run(
        model, [Cleanup(), RoundWeights(**said), QuantizeWeights(min_size=0, **said)], context
    ).model
    assert error(model, after, data["test"]) < 0.6 * error(model, near, data["test"])
