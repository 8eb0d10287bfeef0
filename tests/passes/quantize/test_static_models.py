"""Static quantization of models that are awkward as a whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_models import left_float, normal, ops, parse, quantized, run, sqnr

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Finding, Rewrite
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.quantize.quantize import Quantize
from passes.quantize.to_float16 import ToFloat16

W = normal(4, 3, 3, 3, scale=0.3)
X = {"x": normal(16, 3, 8, 8, seed=3)}


def test_outputs_that_are_also_intermediate_stay_float_under_their_names() -> None:
    model = parse(
        """main (float[N,3,8,8] x) => (float[N,4,6,6] r, float[N,4,4,4] y, float[N,4,6,6] c) {
            c = Conv(x, w) r = Relu(c) y = Conv(r, v) }""",
        {"w": W, "v": normal(4, 4, 3, 3, seed=2)},
    )
    result, _ = quantized(model, X)
    before, after = run(model, X), run(result, X)
    assert [(v.name, v.dtype, str(v.shape)) for v in result.graph.outputs] == [
        (v.name, v.dtype, str(v.shape)) for v in model.graph.outputs
    ]
    assert all(sqnr(before[name], after[name]) > 25 for name in before)
    assert left_float(result) == []
    assert (after["r"] >= 0).all()


def test_a_shared_weight_is_stored_once() -> None:
    model = parse(
        """main (float[N,4] x) => (float[N,4] y) {
            a = Gemm(x, w) r = Relu(a) y = Gemm(r, w) }""",
        {"w": normal(4, 4)},
    )
    result, _ = quantized(model, {"x": normal(32, 4)})
    stored = [v for v in result.graph.initializers.values() if v.const_value.size == 16]
    assert [v.dtype for v in stored] == [ir.DataType.INT8]
    assert left_float(result) == []


@pytest.mark.parametrize("asked", [{"include": "head*"}, {"op_types": ("Convv",)}])
def test_names_and_operators_that_are_nowhere_are_told(asked: dict[str, Any]) -> None:
    model = parse("main (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(4, 4)})
    quantize = Quantize(mode="static", read_back=False, **asked)
    result, said = quantized(model, {"x": normal(8, 4)}, quantize)
    assert ops(result) == ops(model)
    (parameter,) = asked
    assert [one.why for one in said if isinstance(one, Finding)][:1] == [
        f"no node matches {parameter}={asked[parameter]!r}"
    ]


def test_a_weight_that_something_else_reads_stays_float() -> None:
    model = parse(
        "main (float[N,4] x) => (float[N,4] y, float[4,4] t) { y = MatMul(x, w) t = Neg(w) }",
        {"w": normal(4, 4)},
    )
    result, said = quantized(model, {"x": normal(8, 4)})
    assert ops(result) == ops(model)
    assert [type(item) for item in said] == [Declined]
    assert "Neg" in said[0].why


def test_weights_in_constant_nodes_leave_no_float_copy() -> None:
    model = parse("main (float[N,2] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": normal(2, 2)})
    value = model.graph.initializers.pop("w")
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
    node.outputs[0].name = "k"
    layer = model.graph[0]
    layer.replace_input_with(1, node.outputs[0])
    model.graph.insert_before(layer, node)
    result, _ = quantized(model, {"x": normal(8, 2)})
    assert ops(result)["Constant"] == 0
    assert left_float(result) == []


def test_bodies_are_quantized_where_they_run() -> None:
    model = parse(
        """main (float[N,4] x, bool c) => (float[N,4] y) {
            y = If (c) <
                then_branch = t () => (float[N,4] p) { p = MatMul(x, w) },
                else_branch = e () => (float[N,4] q) { h = MatMul(x, v) q = Neg(h) }> }""",
        {"w": normal(4, 4), "v": normal(4, 4, seed=1)},
    )
    feeds = {"x": normal(8, 4), "c": np.asarray(True)}
    result, said = quantized(model, feeds)
    assert sqnr(run(model, feeds)["y"], run(result, feeds)["y"]) > 30
    assert any(isinstance(item, Rewrite) and "then_branch" in item.at for item in said)
    # The other branch never ran, so that nothing is known of what flows in it but its input.
    other = {**feeds, "c": np.asarray(False)}
    assert sqnr(run(model, other)["y"], run(result, other)["y"]) > 30


def test_without_data_there_is_one_clear_error() -> None:
    model = parse("main (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(4, 4)})
    with pytest.raises(GraphoptError, match="needs data"):
        list(Quantize(mode="static").rewrites(model, Context()))


def test_an_old_opset_is_raised() -> None:
    model = parse(
        "main (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(4, 4)}, opset=9
    )
    result, _ = quantized(model, {"x": normal(8, 4)})
    assert result.opset_imports[""] == 13
    assert left_float(result) == []


def test_attention_gets_integers_around_its_products_only() -> None:
    model = parse(
        """main (float[N,6,8] x, float[N,1,6] mask) => (float[N,6,8] y) {
            n = LayerNormalization(x, g) q = MatMul(n, wq) k = MatMul(n, wk)
            t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) m = Add(s, mask) p = Softmax(m)
            a = MatMul(p, n) o = MatMul(a, wo) r = Add(x, o) y = LayerNormalization(r, g) }""",
        {
            "g": np.ones(8, np.float32),
            "wq": normal(8, 8),
            "wk": normal(8, 8, seed=1),
            "wo": normal(8, 8, seed=2),
        },
    )
    lowest = np.zeros((16, 1, 6), np.float32)
    lowest[:, :, 4:] = np.finfo(np.float32).min
    feeds = {"x": normal(16, 6, 8), "mask": lowest}
    result, _ = quantized(model, feeds)
    assert sqnr(run(model, feeds)["y"], run(result, feeds)["y"]) > 25
    left = {operator.op_type for operator in left_float(result)}
    assert {"LayerNormalization"} <= left
    # Sums that a normalization reads, and masks, are not quantized.
    fed = {n.inputs[0].name for n in result.graph if n.op_type == "QuantizeLinear"}
    assert fed.isdisjoint({"x", "r", "m", "s", "mask"})


@pytest.mark.parametrize(
    ("activations", "weights", "granularity"),
    [
        ("uint8", "int8", "tensor"),
        ("int8", "int8", "channel"),
        ("uint8", "uint8", "channel"),
        ("uint16", "int16", "channel"),
        ("int16", "int8", "channel"),
        ("uint16", "uint16", "tensor"),
        ("uint8", "int4", "channel"),
        ("uint16", "uint4", "block"),
        ("float8e4m3fn", "float8e4m3fn", "channel"),
        ("float8e5m2", "float8e5m2", "tensor"),
    ],
)
@pytest.mark.parametrize("symmetric", [None, True, False])
def test_types(activations: str, weights: str, granularity: str, symmetric: bool | None) -> None:
    model = parse(
        "main (float[N,64] x) => (float[N,8] y) { a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }",
        {"w": normal(64, 32), "b": normal(32), "v": normal(32, 8, seed=1)},
    )
    quantize = Quantize(
        mode="static",
        activations=activations,
        weights=weights,
        granularity=granularity,  # type: ignore[arg-type] # a literal
        symmetric=symmetric,
        target="generic" if "float" in activations else "ort-cpu",
        read_back=False,
    )
    feeds = {"x": normal(64, 64)}
    result, _ = quantized(model, feeds, quantize)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    stored = {v.dtype for v in result.graph.initializers.values() if v.const_value.size > 100}
    assert stored == {ir.DataType[weights.upper()]}
    bits = min(ir.DataType[name.upper()].bitwidth for name in (activations, weights))
    bound = {4: 10, 8: 20, 16: 60}[bits] if "float" not in activations else 12
    found = Session(result, optimization="none").run(feeds)["y"]
    assert sqnr(run(model, feeds)["y"], np.asarray(found)) > bound


def test_types_that_a_target_cannot_load_are_refused() -> None:
    with pytest.raises(GraphoptError, match="ort-cpu loads no model with float8e4m3fn"):
        Quantize(mode="static", activations="float8e4m3fn")


def test_overrides_are_taken() -> None:
    model = parse(
        "main (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }",
        {"w": normal(4, 4)},
    )
    feeds = {"x": normal(32, 4)}
    overrides = {"x": {"scale": 0.125, "zero_point": 100}, "r": {"low": 0.0, "high": 25.5}}
    quantize = Quantize(mode="static", overrides=overrides, read_back=False)
    result, _ = quantized(model, feeds, quantize)
    found = result.graph.initializers
    assert float(found["x_scale"].const_value.numpy()) == 0.125
    assert "zero_point_uint8_100" in found
    assert float(found["r_scale"].const_value.numpy()) == pytest.approx(0.1)
    skipping = Quantize(mode="static", overrides={"x": {"skip": True}}, read_back=False)
    _, said = quantized(model, feeds, skipping)
    assert any(isinstance(item, Declined) and "'x'" in item.why for item in said)


def test_an_override_of_no_tensor_is_refused() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
    )
    with pytest.raises(GraphoptError, match="'nowhere', which is no tensor"):
        list(Quantize(overrides={"nowhere": {"skip": True}}).rewrites(model, Context()))


@pytest.mark.parametrize("budget", [-1.0, math.inf, math.nan])
def test_a_budget_is_seconds(budget: float) -> None:
    with pytest.raises(GraphoptError, match="budget must be a finite number"):
        Quantize(budget=budget)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"x": {"shift": 1}}, "shift"),
        ({"x": {"scale": -1.0}}, "positive"),
        ({"x": {"scale": 1.0, "low": 0.0}}, "a scale and a range"),
        ({"x": {"low": 1.0, "high": 0.0}}, "positive scale or range"),
        ({"x": {"dtype": "int3"}}, "int3"),
        ({"x": {"low": "a"}}, "no number"),
    ],
)
def test_wrong_overrides_are_refused(overrides: dict[str, dict[str, object]], match: str) -> None:
    with pytest.raises(GraphoptError, match=match):
        Quantize(mode="static", overrides=overrides)  # type: ignore[arg-type] # wrong on purpose


def test_the_same_model_gives_the_same_bytes() -> None:
    model = parse(
        """main (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) r = Relu(c)
            d = Conv<pads=[1,1,1,1]>(r, v) y = Add(d, r) }""",
        {"w": W, "v": normal(4, 4, 3, 3)},
    )
    first, second = (quantized(model, X)[0] for _ in range(2))
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_every_prefix_of_the_rewrites_is_a_sound_model() -> None:
    model = parse(
        """main (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] r) { c = Conv(x, w)
            r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v) s = Add(d, r) h = HardSwish(s)
            m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(h) y = Clip(m, low) }""",
        {"w": W, "v": normal(4, 4, 3, 3), "low": np.asarray(0, np.float32)},
    )
    reference = run(model, X)
    _, said = quantized(model, X)
    steps = sum(isinstance(item, Rewrite) for item in said)
    assert steps > 5
    for limit in range(steps):
        copy = model.clone()
        context = Context(feeds=Feeds(X).for_model(copy))
        done = 0
        for item in Quantize(mode="static", read_back=False).rewrites(copy, context):
            if isinstance(item, Rewrite):
                if done == limit:
                    break
                item.apply()
                done += 1
        found = run(copy, X)
        assert all(sqnr(reference[name], found[name]) > 20 for name in reference)


def test_what_stays_float_is_listed_with_the_reason() -> None:
    model = parse(
        """main (float[N,3,8,8] x) => (float[N,4,4,4] y) {
            c = Conv(x, w) e = Elu(c) y = Conv(e, v) }""",
        {"w": W, "v": normal(4, 4, 3, 3)},
    )
    _, said = quantized(model, X, Quantize(mode="static"))
    findings = {item.at: item.why for item in said if isinstance(item, Finding)}
    assert findings["e"] == "ort-cpu runs no Elu on integers"


STEPS = {
    "conv": "{o} = Conv<pads=[1,1,1,1]>({i}, w{n})",
    "relu": "{o} = Relu({i})",
    "clip": "{o} = Clip({i}, low, high)",
    "add": "{o} = Add({i}, {p})",
    "mul": "{o} = Mul({i}, {p})",
    "scale": "{o} = Mul({i}, high)",
    "concat": "{o}c = Concat<axis=1>({i}, {p}) {o} = Conv<pads=[1,1,1,1]>({o}c, u{n})",
    "pool": "{o} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({i})",
    "mean": "{o} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({i})",
    "swish": "{o} = HardSwish({i})",
    "sigmoid": "{o} = Sigmoid({i})",
    "tanh": "{o} = Tanh({i})",
    "transpose": "{o} = Transpose<perm=[0,1,3,2]>({i})",
    "pad": "{o}p = Pad({i}, pads) {o} = Slice({o}p, from, to, axes)",
}


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, 4)), max_size=7),
    extra=st.integers(0, 6),
)
def test_random_graphs_keep_interface_and_signal(steps: list[tuple[str, int]], extra: int) -> None:
    body, values = "v0 = Conv<pads=[1,1,1,1]>(x, w0)", ["v0"]
    weights = {
        "w0": normal(4, 3, 3, 3, scale=0.3),
        "low": np.asarray(-0.5, np.float32),
        "high": np.asarray(1.5, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "from": np.array([1, 1]),
        "to": np.array([9, 9]),
        "axes": np.array([2, 3]),
    }
    for n, (step, back) in enumerate(steps, 1):
        values.append(f"v{n}")
        previous = values[max(0, len(values) - 1 - back)]
        body += " " + STEPS[step].format(o=f"v{n}", i=values[-2], p=previous, n=n)
        weights[f"w{n}"] = normal(4, 4, 3, 3, seed=n, scale=0.25)
        weights[f"u{n}"] = normal(4, 8, 3, 3, seed=n, scale=0.2)
    outputs = dict.fromkeys([values[-1], values[min(extra, len(values) - 1)]])
    weights = {k: v for k, v in weights.items() if f"{k})" in body or f"{k}," in body}
    face = ", ".join(f"float[N,4,8,8] {name}" for name in outputs)
    model = parse(f"main (float[N,3,8,8] x) => ({face}) {{ {body} }}", weights)
    result, _ = quantized(model, X)
    onnx.checker.check_model(ir.to_proto(result))
    before, after = run(model, X), run(result, X)
    assert list(before) == list(after)
    for name, reference in before.items():
        assert after[name].shape == reference.shape
        assert after[name].dtype == reference.dtype
        assert sqnr(reference, after[name]) > 12


def test_what_is_quantized_already_stays_and_the_rest_goes_around_it() -> None:
    model = parse(
        """main (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v, b)
            s = Add(d, r) y = Conv<pads=[1,1,1,1]>(s, u) }""",
        {"w": W, "v": normal(4, 4, 3, 3), "u": normal(4, 4, 3, 3, seed=1), "b": normal(4)},
    )
    part, _ = quantized(model, X, Quantize(mode="static", include="d", read_back=False))
    assert ops(part)["QuantizeLinear"] == 3  # r, d and their sum
    kept = {v.name for v in part.graph.initializers.values() if v.dtype == ir.DataType.INT8}
    whole, _ = quantized(part, X)
    assert kept <= set(whole.graph.initializers)
    assert left_float(whole) == []
    assert sqnr(run(model, X)["y"], run(whole, X)["y"]) > 25
    again, _ = quantized(whole, X)
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(whole).SerializeToString()


def test_half_precision_is_widened_for_the_cpu() -> None:
    half = {"w": W.astype(np.float16), "v": normal(4, 4, 3, 3).astype(np.float16)}
    body = """main (float16[N,3,8,8] x) => (float16[N,4,4,4] y) {
        c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"""
    model, feeds = parse(body, half), {"x": X["x"].astype(np.float16)}
    result, _ = quantized(model, feeds)
    assert [v.dtype.name for v in (*result.graph.inputs, *result.graph.outputs)] == ["FLOAT16"] * 2
    assert left_float(result) == []
    before, after = run(model, feeds)["y"], run(result, feeds)["y"]
    assert after.dtype == np.float16
    assert sqnr(before, after) > 25
    tensorrt = Quantize(mode="static", activations="int8", target="tensorrt", read_back=False)
    kept, _ = quantized(model, feeds, tensorrt)
    onnx.checker.check_model(ir.to_proto(kept), full_check=True)
    scales = {v.dtype for v in kept.graph.initializers.values() if "scale" in v.name}
    assert scales == {ir.DataType.FLOAT16}


@pytest.mark.parametrize("batch", ["N", "16"])
def test_the_bias_behind_a_product_does_not_keep_it_float(batch: str) -> None:
    # With sizes that are known, ONNX Runtime makes a Gemm of the product and the sum.
    model = parse(
        f"""main (float[{batch},4,8] x) => (float[{batch},4,6] y) {{
            p = MatMul(x, w) s = Add(b, p) r = Relu(s) q = MatMul(r, v) y = Add(q, d) }}""",
        {"w": normal(8, 5), "b": normal(5), "v": normal(5, 6), "d": normal(6)},
    )
    feeds = {"x": normal(16, 4, 8)}
    result, _ = quantized(model, feeds)
    assert sqnr(run(model, feeds)["y"], run(result, feeds)["y"]) > 30
    left = {operator.op_type for operator in left_float(result)}
    assert left <= {"Add", "Relu", "Reshape"}


def test_a_weight_with_nan_stays_float() -> None:
    broken = normal(5, 6)
    broken[0, 0] = np.nan
    model = parse(
        """main (float[N,8] x) => (float[N,5] p, float[N,6] y) {
            p = MatMul(x, w) y = MatMul(p, v) }""",
        {"w": normal(8, 5), "v": broken},
    )
    result, _ = quantized(model, {"x": normal(16, 8)})
    stored = {v.dtype for v in result.graph.initializers.values()}
    assert "v" in result.graph.initializers
    assert ir.DataType.INT8 in stored


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_a_model_that_to_float16_has_just_narrowed_is_quantized(target: str) -> None:
    model = parse(
        """main (float[N,8] x) => (float[N,4] y) {
            a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }""",
        {"w": normal(8, 6), "v": normal(6, 4)},
        opset=17,
    )
    feeds = {"x": normal(32, 8)}
    narrowed = ir.from_proto(ir.to_proto(model))
    context = Context(feeds=Feeds(feeds).for_model(narrowed))
    work = Quantize(mode="static", activations="int8", target=target, read_back=False)
    # In the same model, with what the first pass remembers of it, as in a pipeline.
    for one in (ToFloat16(target="generic"), work):
        for item in one.rewrites(narrowed, context):
            if isinstance(item, Rewrite):
                item.apply()
    onnx.checker.check_model(ir.to_proto(narrowed), full_check=True)
    assert "QuantizeLinear" in ops(narrowed)
    assert sqnr(run(model, feeds)["y"], run(narrowed, feeds)["y"]) > 25
