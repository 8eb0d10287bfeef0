from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from float_models import apply, declined, half, noise, operators, parsed, run
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.pipeline.interface import interface_change
from graphopt.pipeline.snapshot import snapshot
from graphopt.runtime.feeds import Feeds
from passes.quantize.to_float16 import ToFloat16
from passes.quantize.to_float32 import ToFloat32


def test_text_before_and_after() -> None:
    model = parsed(
        """m (float[2,3] x) => (float[2,2] y) {
          a = MatMul(x, w)  b = Relu(a)  y = Add(b, c) }""",
        w=noise(3, 2),
        c=noise(2),
    )
    before = snapshot(model)
    apply(ToFloat16(), model)
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "Relu", "Add", "Cast"]
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "w": ir.DataType.FLOAT16,
        "c": ir.DataType.FLOAT16,
    }
    assert [node.outputs[0].name for node in model.graph][1:3] == ["a", "b"]
    assert interface_change(before, model) is None
    x = noise(2, 3, seed=5)
    np.testing.assert_allclose(run(model, x=x)[0], run(before, x=x)[0], rtol=4e-3, atol=4e-3)


def test_the_interface_becomes_narrow_on_request() -> None:
    model = parsed(
        "m (float[2,3] x, int64[1] i) => (float[2,3] y, float[2,3] z) { y = Relu(x) z = Exp(y) }"
    )
    work = ToFloat16(keep_io=False)
    assert not work.keeps_interface
    assert ToFloat16().keeps_interface
    said = apply(work, model)
    assert "Exp may leave the range" in declined(said)["z"]
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["x", "i", "y", "z"]
    dtypes = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    half_, int64 = ir.DataType.FLOAT16, ir.DataType.INT64
    assert dtypes == [half_, int64, half_, half_]
    x = noise(2, 3).astype(np.float16)
    found = run(model, x=x, i=np.zeros(1, np.int64))
    np.testing.assert_array_equal(found[0], np.maximum(x, 0))
    np.testing.assert_allclose(found[1], np.exp(np.maximum(x, 0).astype(float)), rtol=1e-3)


def test_casts_of_the_model_vanish() -> None:
    model = parsed(
        """m (float[2,3] x) => (float[2,3] y) {
          a = Relu(x)  h = Cast<to=10>(a)  r = Neg(h)  f = Cast<to=1>(r)  y = Abs(f) }"""
    )
    apply(ToFloat16(), model)
    assert [n.op_type for n in model.graph] == ["Cast", "Relu", "Neg", "Abs", "Cast"]


def test_numbers_out_of_range_are_not_carried_on() -> None:
    model = parsed(
        """m (float[2,3] x) => (float[2,3] y) {
          a = Mul(x, big)  b = Relu(a)  c = Add(b, b)  d = Tanh(c)  y = Neg(d) }""",
        big=np.array(1e6, np.float32),
    )
    before = snapshot(model)
    assert set(declined(apply(ToFloat16(), model))) == {"a", "b", "c", "d"}
    x = noise(2, 3)
    np.testing.assert_allclose(run(model, x=x)[0], run(before, x=x)[0], rtol=2e-3)


def test_sums_of_integers_stay() -> None:
    model = parsed(
        """m (uint8[2,64] x) => (float[2,2] y) {
          i = MatMulInteger(x, w)  f = Cast<to=1>(i)  s = Mul(f, k)  y = Neg(s) }""",
        w=np.full((64, 2), 127, np.int8),
        k=np.array(1e-4, np.float32),
    )
    assert set(declined(apply(ToFloat16(), model))) == {"f", "s"}
    found = run(model, x=np.full((2, 64), 255, np.uint8))[0]
    np.testing.assert_allclose(found, -64 * 127 * 255 * 1e-4, rtol=1e-3)


def test_a_weight_with_readers_of_both_types_is_stored_once() -> None:
    w = noise(40, 40)
    model = parsed(
        "m (float[2,40] x) => (float[2,40] y) { a = MatMul(x, w)  y = MatMul(a, w) }", w=w
    )
    apply(ToFloat16(exclude="y"), model)
    assert {n: v.dtype for n, v in model.graph.initializers.items()} == {"w": ir.DataType.FLOAT16}
    x = noise(2, 40, seed=1)
    np.testing.assert_allclose(run(model, x=x)[0], x @ half(w) @ half(w), rtol=2e-2, atol=0.1)


def test_what_float16_does_not_hold_stays() -> None:
    model = parsed(
        """m (float[2,3] x) => (float[2,3] y, float[2,3] z, float[2,3] u, float[2,3] v) {
          y = Mul(x, big)  z = Add(x, tiny)  u = Div(x, mixed)  v = Mul(x, mixed) }""",
        big=np.array([1, 1e5, 1], np.float32),
        tiny=np.array([1e-12], np.float32),
        mixed=np.array([1, 1e-9, 2], np.float32),
    )
    before = snapshot(model)
    said = declined(apply(ToFloat16(), model))
    assert set(said) == {"y", "z", "u"}
    assert "reaches 1e+05, beyond float16" in said["y"]
    assert "is too small" in said["z"]
    assert "would become 0" in said["u"]
    x = noise(2, 3)
    for found, expected in zip(run(model, x=x), run(before, x=x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_activations_beyond_the_range_on_the_data_stay() -> None:
    text = """m (float[N,3] x) => (float[N,3] y) {
      s = Mul(x, k)  p = Mul(s, s)  r = Sqrt(p)  y = Relu(r) }"""
    model = parsed(text, k=np.array([100], np.float32))
    feeds = Feeds({"x": np.full((4, 3), 10, np.float32)})
    said = declined(apply(ToFloat16(), model, feeds.for_model(model)))
    assert set(said) == {"p", "r"}
    assert "'p' reaches 1e+06 on the data" in said["p"]
    found = run(model, x=np.full((4, 3), 10, np.float32))[0]
    np.testing.assert_allclose(found, 1000, rtol=1e-3)


def test_without_data_a_variance_stays_until_its_root() -> None:
    model = parsed(
        """m (float[2,8] x) => (float[2,8] y) {
          m = ReduceMean<axes=[1]>(x)  d = Sub(x, m)
          q = Pow(d, two)  v = ReduceMean<axes=[1]>(q)  e = Add(v, eps)  s = Sqrt(e)
          n = Div(d, s)  y = Mul(n, g) }""",
        two=np.array(2, np.float32),
        eps=np.array(1e-5, np.float32),
        g=noise(8),
    )
    before = snapshot(model)
    assert set(declined(apply(ToFloat16(), model))) == {"q", "v", "e", "s"}
    x = noise(2, 8) * 1000
    np.testing.assert_allclose(run(model, x=x)[0], run(before, x=x)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mask", ["Mul", "Where"])
def test_masks_of_scores_are_cut_off(mask: str) -> None:
    body = {
        "Mul": "f = Cast<to=1>(k)  i = Sub(one, f)  b = Mul(i, low)  t = Add(s, b)",
        "Where": "c = Cast<to=9>(k)  t = Where(c, s, low)",
    }[mask]
    model = (
        parsed(
            f"""m (float[2,4] x, int64[4] k) => (float[2,4] y) {{
          s = MatMul(x, w) {body}  y = Softmax(t) }}""",
            w=noise(4, 4),
            low=np.array(np.finfo(np.float32).min),
            one=np.array(1, np.float32),
        )
        if mask == "Mul"
        else parsed(
            f"""m (float[2,4] x, int64[4] k) => (float[2,4] y) {{
          s = MatMul(x, w) {body}  y = Softmax(t) }}""",
            w=noise(4, 4),
            low=np.array(np.finfo(np.float32).min),
        )
    )
    before = snapshot(model)
    said = apply(ToFloat16(), model)
    assert not declined(said)
    low = model.graph.initializers["low"].const_value if "low" in model.graph.initializers else None
    low = low or next(
        v.const_value for n, v in model.graph.initializers.items() if n.startswith("low")
    )
    assert float(low.numpy()) == -32752
    x = noise(2, 4, seed=1)
    for k in ([1, 1, 0, 0], [1, 1, 1, 1]):
        keep = np.array(k, np.int64)
        found, expected = run(model, x=x, k=keep)[0], run(before, x=x, k=keep)[0]
        np.testing.assert_allclose(found, expected, atol=4e-3)
    # All masked: float32 is even, and float16 must not be NaN.
    assert np.isfinite(run(model, x=x, k=np.zeros(4, np.int64))[0]).all()


def test_a_number_that_is_no_mask_is_not_cut_off() -> None:
    model = parsed(
        "m (float[2,4] x) => (float[2,4] y) { y = Add(x, low) }",
        low=np.array(np.finfo(np.float32).min),
    )
    assert "beyond float16" in declined(apply(ToFloat16(), model))["y"]


def test_types_in_attributes() -> None:
    model = parsed(
        """m (int64[2] n, int64[2,3] k, float[3,3] e) => (float[2,3] y, float[3,3] i) {
          z = ConstantOfShape<value = float[1] {0.5}>(n)
          r = RandomNormal<dtype=1, shape=[2,3], seed=1.0>()
          c = Constant<value_floats=[1.0, 2.0, 3.0]>()
          f = Cast<to=1>(k)
          i = EyeLike<dtype=1>(e)
          a = Add(f, r)  b = Add(a, z)  d = Mul(r, zero)  g = Sub(b, a) h = Add(g, d)
          y = Mul(h, c) }""",
        zero=np.array(0, np.float32),
    )
    apply(ToFloat16(), model)
    # ONNX Runtime's CPU provider draws no float16, and cannot cast for what reads nothing.
    (drawn,) = [n for n in model.graph if n.op_type == "RandomNormal"]
    assert drawn.attributes["dtype"].as_int() == ir.DataType.FLOAT
    (filled,) = [n for n in model.graph if n.op_type == "ConstantOfShape"]
    assert filled.attributes["value"].as_tensor().dtype == ir.DataType.FLOAT16
    found = run(
        model, n=np.array([2, 3]), k=np.ones((2, 3), np.int64), e=np.zeros((3, 3), np.float32)
    )
    np.testing.assert_allclose(found[0], np.broadcast_to([0.5, 1, 1.5], (2, 3)), atol=0.01)
    np.testing.assert_array_equal(found[1], np.eye(3))


def test_scales_of_resize_stay() -> None:
    model = parsed(
        'm (float[1,1,4,4] x) => (float[1,1,8,8] y) { y = Resize<mode="linear">(x, , s) }',
        s=np.array([1, 1, 2, 2], np.float32),
    )
    before = snapshot(model)
    apply(ToFloat16(), model)
    assert model.graph.initializers["s"].dtype == ir.DataType.FLOAT
    assert operators(model)["Cast"] == 2
    x = noise(1, 1, 4, 4)
    np.testing.assert_allclose(run(model, x=x)[0], run(before, x=x)[0], atol=4e-3)


UNARY = ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity")
BINARY = ("Add", "Sub", "Mul", "Max", "Min")


@settings(max_examples=30)
@given(st.data())
def test_drawn_graphs(data: Any) -> None:
    count = data.draw(st.integers(1, 8))
    lines, values = [], ["x", "c"]
    for i in range(count):
        if data.draw(st.booleans()):
            lines.append(
                f"v{i} = {data.draw(st.sampled_from(UNARY))}({data.draw(st.sampled_from(values))})"
            )
        else:
            one, other = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
            lines.append(f"v{i} = {data.draw(st.sampled_from(BINARY))}({one}, {other})")
        values.append(f"v{i}")
    outputs = sorted({f"v{count - 1}", data.draw(st.sampled_from(values[2:]))})
    exclude = tuple(data.draw(st.sets(st.sampled_from(values[2:]), max_size=3)))
    constant = "c = Constant<value = float[2,3] {0.5, -1.5, 0.25, 1.0, -2.0, 0.0}>()"
    model = parsed(
        f"m (float[2,3] x) => ({', '.join(f'float[a{o},b{o}] {o}' for o in outputs)})"
        f" {{ {constant} {'  '.join(lines)} }}"
    )
    before = snapshot(model)
    keep_io = data.draw(st.booleans())
    said = apply(ToFloat16(keep_io=keep_io, exclude=exclude), model)
    assert not declined(said)
    x = half(noise(2, 3, seed=data.draw(st.integers(0, 9))) * 0.5)
    fed = x if keep_io else x.astype(np.float16)
    assert [v.name for v in model.graph.outputs] == outputs
    for one, other in zip(run(model, x=fed), run(before, x=x), strict=True):
        assert (one.dtype == np.float32) == keep_io
        np.testing.assert_allclose(one, other, rtol=0.03, atol=0.03)
    apply(ToFloat32(keep_io=keep_io), model)
    for one, other in zip(run(model, x=fed if keep_io else x), run(before, x=x), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.03, atol=0.03)
