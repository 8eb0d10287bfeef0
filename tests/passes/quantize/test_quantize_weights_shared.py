from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from integer_models import (
    declared,
    grid,
    model_of,
    normal,
    on_runtime,
    operators,
    run_pass,
    with_weights,
)
from weight_layers import optimized_operators, with_nearest

from passes.quantize.weights import QuantizeWeights

LSTM = """g (float[5, 2, 12] x) => (y)
<float[{d}, 64, 12] w = {{{w}}}, float[{d}, 64, 16] r = {{{r}}}>
{{ y, h, c = LSTM<hidden_size = 16, direction = "{way}">(x, w, r) }}"""


@pytest.mark.parametrize(("directions", "way"), [(1, "forward"), (2, "bidirectional")])
def test_recurrent_layers(directions: int, way: str) -> None:
    w, r = normal(directions, 64, 12), normal(directions, 64, 16, seed=1)
    zeros = {"w": ", ".join(["0"] * w.size), "r": ", ".join(["0"] * r.size)}
    model = with_weights(LSTM.format(d=directions, way=way, **zeros), w=w, r=r)
    after, step = run_pass(model, QuantizeWeights())
    assert len(step.rewrites) == 2
    twin = model.clone()
    for name, array in (("w", w), ("r", r)):
        reach = np.abs(array).max(axis=2, keepdims=True) / 127
        near = np.rint(array / reach) * reach
        twin.graph.initializers[name].const_value = ir.Tensor(near.astype(np.float32), name=name)
    data = {"x": normal(5, 2, 12, seed=2)}
    np.testing.assert_allclose(
        on_runtime(after, data, "all")[0], on_runtime(twin, data)[0], rtol=1e-4, atol=1e-5
    )


TIED = """g (int64[N, T] i) => (float[N, T, 60] y) <{table}>
{{ e = Gather(w, i) r = Relu(e) {head} }}"""
HEADS = {
    "MatMul": "t = Transpose<perm = [1, 0]>(w) y = MatMul(r, t)",
    "Gemm": "s = Constant<value = int64[2] {-1, 20}>() f = Reshape(r, s)"
    " z = Gemm<transB = 1>(f, w) q = Shape<start = 0, end = 2>(i)"
    " m = Constant<value = int64[1] {-1}>() c = Concat<axis = 0>(q, m) y = Reshape(z, c)",
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("head", HEADS)
def test_tied_embeddings_are_stored_once(head: str, granularity: str, symmetric: bool) -> None:
    table = normal(60, 20)
    model = with_weights(TIED.format(table=declared("w", table), head=HEADS[head]), w=table)
    work = QuantizeWeights(dtype="int4", granularity=granularity, symmetric=symmetric)
    after, step = run_pass(model, work)
    assert [rewrite.at for rewrite in step.rewrites if rewrite.at != "model"] == ["w"]
    large = [v.name for v in after.graph.initializers.values() if v.const_value.size >= 1200]
    assert large == ["w_quantized"]
    assert after.graph.initializers["w_quantized"].dtype == ir.DataType.INT8
    axis = None if granularity == "tensor" else 0
    near = grid(table, "int8", axis, 0, symmetric=symmetric).nearest(table)
    data = {"i": np.array([[1, 5, 59], [0, 0, 2]])}
    expected = on_runtime(with_nearest(model, near), data)[0]
    for optimization in ("none", "all"):
        found = on_runtime(after, data, optimization)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "symmetric"), [("int8", True), ("int8", False), ("uint4", False)]
)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
def test_tied_embeddings_are_packed_once(granularity: str, dtype: str, symmetric: bool) -> None:
    table = normal(60, 32)
    model = with_weights(TIED.format(table=declared("w", table), head=HEADS["MatMul"]), w=table)
    work = QuantizeWeights(
        dtype=dtype,
        granularity=granularity,
        symmetric=symmetric,
        form="matmulnbits",
        accuracy_level=1,
    )
    after, _ = run_pass(model, work)
    assert "MatMulNBits" in operators(after)
    large = [v.name for v in after.graph.initializers.values() if v.const_value.size >= 1920]
    assert large == ["w_packed"]
    axis = None if granularity == "tensor" else 0
    kind = {"int8": "int8", "uint4": "uint8"}[dtype]
    near = grid(table, kind, axis, 0, symmetric=symmetric).nearest(table)
    data = {"i": np.array([[1, 5, 59], [0, 0, 2]])}
    expected = on_runtime(with_nearest(model, near), data)[0]
    np.testing.assert_allclose(on_runtime(after, data)[0], expected, rtol=1e-3, atol=1e-4)


def test_a_table_that_cannot_be_packed_is_folded() -> None:
    table = normal(60, 20)
    model = with_weights(TIED.format(table=declared("w", table), head=HEADS["MatMul"]), w=table)
    after, step = run_pass(model, QuantizeWeights(form="matmulnbits"))
    assert step.rewrites[0].details["form"] == "folded"
    assert "w_quantized" in after.graph.initializers


def test_rows_are_picked_before_they_are_made_real() -> None:
    table = normal(60, 20)
    text = f"g (int64[N] i) => (float[N, 20] y) <{declared('w', table)}> {{ y = Gather(w, i) }}"
    after, _ = run_pass(with_weights(text, w=table), QuantizeWeights())
    assert operators(after) == ["Gather", "Cast", "Gather", "Mul"]
    assert [output.name for output in after.graph.outputs] == ["y"]


IF = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 32] x, bool c) => (float[2, 32] y) <float[32, 32] w = {zeros}>
{{
  y = If (c) <
    then_branch = then () => (a) <float[32, 32] v = {zeros}> {{ a = MatMul(x, v) }},
    else_branch = else () => (b) {{ b = MatMul(x, w) }}
  >
}}"""


@pytest.mark.parametrize("form", ["auto", "folded", "dequantize"])
def test_weights_in_and_around_bodies(form: str) -> None:
    model = model_of(IF.format(zeros="{" + ", ".join(["0"] * 1024) + "}"))
    inner = model.graph.node(0).attributes["then_branch"].as_graph()
    for graph, name, seed in ((model.graph, "w", 0), (inner, "v", 1)):
        array = normal(32, 32, seed=seed)
        graph.initializers[name].const_value = ir.Tensor(array, name=name)
    after, step = run_pass(model, QuantizeWeights(form=form, min_size=0))
    assert len(step.rewrites) == 2
    for c in (True, False):
        data = {"x": normal(2, 32, seed=3), "c": np.array(c)}
        before, found = on_runtime(model, data)[0], on_runtime(after, data, "all")[0]
        assert 0 < np.abs(before - found).max() < 0.03 * np.abs(before).max()


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[2, 32] x) => (float[2, 32] y) {{ y = local.layer(x) }}
<opset_import: ["" : 17], domain: "local">
layer (x) => (y) {{ w = Constant<value = float[32, 32] {{{zeros}}}>() y = MatMul(x, w) }}"""


@pytest.mark.parametrize("form", ["auto", "folded", "dequantize", "matmulnbits"])
def test_constant_nodes_in_functions(form: str) -> None:
    model = model_of(FUNCTION.format(zeros=", ".join(["0"] * 1024)))
    (function,) = model.functions.values()
    constant = next(node for node in function if node.op_type == "Constant")
    constant.attributes["value"] = ir.AttrTensor("value", ir.Tensor(normal(32, 32)))
    after, step = run_pass(model, QuantizeWeights(form=form, min_size=0))
    assert len(step.rewrites) == 1
    data = {"x": normal(2, 32, seed=3)}
    before, found = on_runtime(model, data)[0], on_runtime(after, data, "all")[0]
    assert 0 < np.abs(before - found).max() < 0.03 * np.abs(before).max()
    (function,) = after.functions.values()
    held = [n.attributes["value"].value for n in function if n.op_type == "Constant"]
    assert not any(t.dtype == ir.DataType.FLOAT and t.size == 1024 for t in held)


def test_a_shared_weight_is_stored_once() -> None:
    weight = normal(32, 32)
    text = f"""g (float[N, 32] x) => (float[N, 32] y) <{declared("w", weight)}>
    {{ a = MatMul(x, w) y = MatMul(a, w) }}"""
    for form in ("folded", "dequantize", "matmulnbits"):
        after, _ = run_pass(with_weights(text, w=weight), QuantizeWeights(form=form))
        sizes = [value.const_value.size for value in after.graph.initializers.values()]
        assert sizes.count(1024) == 1


def test_onnx_runtime_fuses_no_weight_that_is_read_twice() -> None:
    weight = normal(768, 768)
    text = f"""g (float[N, 768] x) => (y) <{declared("w", weight)}>
    {{ a = MatMul(x, w) y = MatMul(a, w) }}"""
    model = with_weights(text, w=weight)
    asked, _ = run_pass(model, QuantizeWeights(form="dequantize"))
    assert "MatMulNBits" not in optimized_operators(asked)
    assert optimized_operators(run_pass(model, QuantizeWeights())[0]) == ["MatMul", "MatMul"]
