from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from siblings_models import HEADER, applied, assert_same, graph, ops, seeded

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.runtime.paired import Paired, Ratios
from passes.merge.fuse_chain import FuseChain, products
from passes.merge.fuse_chain.candidates import find
from passes.merge.gain import scales

FUSED = {
    "MatMul, MatMul": (
        "float[N,5,8] x, float[8,8] w1, float[8,4] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)",
        ["MatMul"],
    ),
    "with Adds": (
        "float[N,5,8] x, float[8,8] w1, float[8] b1, float[8,4] w2, float[4] b2",
        "t = MatMul(x, w1)\n u = Add(t, b1)\n v = MatMul(u, w2)\n a = Add(b2, v)",
        ["MatMul", "Add"],
    ),
    "an Add between": (
        "float[N,5,8] x, float[8,8] w1, float b1, float[8,4] w2",
        "t = MatMul(x, w1)\n u = Add(t, b1)\n a = MatMul(u, w2)",
        ["MatMul", "Add"],
    ),
    "an Add of activations behind": (
        "float[N,8] x, float[8,8] w1, float[8,8] w2",
        "t = MatMul(x, w1)\n u = MatMul(t, w2)\n a = Add(u, x)",
        ["MatMul", "Add"],
    ),
    "on the left": (
        "float[N,8,5] x, float[6,8] w1, float[4,6] w2",
        "t = MatMul(w1, x)\n a = MatMul(w2, t)",
        ["MatMul"],
    ),
    "a vector": (
        "float[8] x, float[8,6] w1, float[6,4] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)",
        ["MatMul"],
    ),
    "Gemm, Gemm": (
        "float[8,N] x, float[6,8] w1, float[6] b1, float[6,4] w2, float[1,4] b2",
        "t = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(x, w1, b1)\n"
        "a = Gemm<alpha = 3.0, beta = 0.25>(t, w2, b2)",
        ["Gemm"],
    ),
    "Gemm, MatMul, Add": (
        "float[N,8] x, float[6,8] w1, float[1] b1, float[6,4] w2, float[4] b2",
        "t = Gemm<transB = 1>(x, w1, b1)\n u = MatMul(t, w2)\n a = Add(u, b2)",
        ["Gemm"],
    ),
    "MatMul, Gemm": (
        "float[N,8] x, float[8,6] w1, float[4,6] w2, float[4] b2",
        "t = MatMul(x, w1)\n a = Gemm<transB = 1>(t, w2, b2)",
        ["Gemm"],
    ),
    "three": (
        "float[N,8] x, float[8,8] w1, float[8,8] w2, float[8,2] w3",
        "t = MatMul(x, w1)\n u = MatMul(t, w2)\n a = MatMul(u, w3)",
        ["MatMul"],
    ),
    "four": (
        "float[N,8] x, float[8,8] w1, float[8,8] w2, float[8,8] w3, float[8,8] w4",
        "t = MatMul(x, w1)\n u = MatMul(t, w2)\n v = MatMul(u, w3)\n a = MatMul(v, w4)",
        ["MatMul"],
    ),
    "Conv, Conv 1": (
        "float[N,3,9,9] x, float[8,3,3,3] w1, float[8] b1, float[4,8,1,1] w2, float[4] b2",
        "t = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)\n a = Conv(t, w2, b2)",
        ["Conv"],
    ),
    "Conv, Conv 1 with strides": (
        "float[N,3,12,11] x, float[8,3,3,3] w1, float[8] b1, float[16,8,1,1] w2",
        "t = Conv<pads = [1, 0, 1, 2], dilations = [2, 1]>(x, w1, b1)\n"
        "a = Conv<strides = [2, 3]>(t, w2)",
        ["Conv"],
    ),
    "SAME Conv, Conv 1": (
        "float[N,3,9,9] x, float[8,3,3,3] w1, float[4,8,1,1] w2",
        't = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w1)\n'
        'a = Conv<auto_pad = "SAME_UPPER">(t, w2)',
        ["Conv"],
    ),
    "Conv 1, Conv": (
        "float[N,3,9,9] x, float[8,3,1,1] w1, float[8] b1, float[4,8,3,2] w2, float[4] b2",
        "t = Conv(x, w1, b1)\n a = Conv<strides = [2, 1], dilations = [1, 2]>(t, w2, b2)",
        ["Conv"],
    ),
    "Conv 1, padded Conv": (
        "float[N,3,9,9] x, float[8,3,1,1] w1, float[4,8,3,3] w2, float[4] b2",
        "t = Conv(x, w1)\n a = Conv<pads = [1, 0, 2, 1]>(t, w2, b2)",
        ["Conv"],
    ),
    "Conv 1, Conv 1": (
        "float[N,3,5] x, float[8,3,1] w1, float[8] b1, float[4,8,1] w2",
        "t = Conv(x, w1, b1)\n a = Conv(t, w2)",
        ["Conv"],
    ),
    "groups": (
        "float[N,4,5,5] x, float[8,2,3,3] w1, float[8] b1, float[6,4,1,1] w2",
        "t = Conv<group = 2>(x, w1, b1)\n a = Conv<group = 2>(t, w2)",
        ["Conv"],
    ),
    "groups, 1 before": (
        "float[N,4,5,5] x, float[8,2,1,1] w1, float[8] b1, float[6,4,3,3] w2",
        "t = Conv<group = 2>(x, w1, b1)\n a = Conv<group = 2>(t, w2)",
        ["Conv"],
    ),
    "half precision": (
        "float16[N,8] x, float16[8,6] w1, float16[6,4] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)",
        ["MatMul"],
    ),
    "a weight twice": (
        "float[N,8] x, float[8,8] w1",
        "t = MatMul(x, w1)\n a = MatMul(t, w1)",
        None,
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize("name", FUSED)
def test_two_become_one(name, opset):
    inputs, body, left = FUSED[name]
    model = seeded(graph(inputs, body, opset=opset))
    before = ir.to_proto(model)
    applied(FuseChain(measure=False), model)
    if left is not None:
        assert ops(model) == left
        stored = {value.name: value.const_value for value in model.graph.initializers.values()}
        assert all("chain" in name for name in stored)
    assert_same(before, model, rtol=2e-2 if "float16" in inputs else 1e-5)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


STAYS = {
    "of low rank": ("float[N,8] x, float[8,2] w1, float[2,8] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)", None),
    "an activation between": ("float[N,8] x, float[8,8] w1, float[8,4] w2",
        "t = MatMul(x, w1)\n u = Relu(t)\n a = MatMul(u, w2)", None),
    "read between": ("float[N,8] x, float[8,8] w1, float[8,4] w2",
        "a = MatMul(x, w1)\n b = MatMul(a, w2)", None),
    "left and right": ("float[8,8] x, float[8,8] w1, float[8,4] w2",
        "t = MatMul(w1, x)\n a = MatMul(t, w2)", None),
    "computed": ("float[N,8] x, float[8,8] in_w, float[8,4] w2",
        "t = MatMul(x, in_w)\n a = MatMul(t, w2)", None),
    "transposed between": ("float[8,8] x, float[8,8] w1, float[8,4] w2",
        "t = MatMul(x, w1)\n a = Gemm<transA = 1>(t, w2)", None),
    "other groups": ("float[N,4,5,5] x, float[8,2,3,3] w1, float[4,8,1,1] w2",
        "t = Conv<group = 2>(x, w1)\n a = Conv(t, w2)", None),
    "kernels on both": ("float[N,4,9,9] x, float[8,4,3,3] w1, float[4,8,3,3] w2",
        "t = Conv(x, w1)\n a = Conv(t, w2)", None),
    "padding of the 1": ("float[N,4,9,9] x, float[8,4,3,3] w1, float[4,8,1,1] w2",
        "t = Conv(x, w1)\n a = Conv<pads = [1, 1, 1, 1]>(t, w2)", None),
    "SAME, and strides behind": ("float[N,4,9,9] x, float[8,4,3,3] w1, float[4,8,1,1] w2",
        't = Conv<auto_pad = "SAME_UPPER">(x, w1)\n a = Conv<strides = [2, 2]>(t, w2)', None),
    "strides before": ("float[N,3,9,9] x, float[8,3,1,1] w1, float[4,8,3,3] w2",
        "t = Conv<strides = [2, 2]>(x, w1)\n a = Conv(t, w2)", None),
    "a bias that is padded": ("float[N,3,9,9] x, float[8,3,1,1] w1, float[8] b1, "
        "float[4,8,3,3] w2", "t = Conv(x, w1, b1)\n a = Conv<pads = [1, 1, 1, 1]>(t, w2)",
        "padded"),
    "a bias of activations": ("float[N,8] x, float[8,8] w1, float[8,4] w2",
        "t = Gemm(x, w1, x)\n a = Gemm(t, w2)", "bias is computed"),
    "others read the weights": ("float[N,8] x, float[8,8] w1, float[8,8] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)\n b = Gemm(w1, w2, x)", "file would grow by 256"),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "why"), STAYS.values(), ids=STAYS)
def test_others_stay(inputs, body, why):
    model = seeded(graph(inputs, body))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    said = applied(FuseChain(measure=False), model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert all(isinstance(step, Declined) for step in said)
    assert bool(said) == (why is not None), said
    assert why is None or any(why in step.why for step in said)


def test_weights_that_are_shared_without_growth():
    model = seeded(graph("float[N,8] x, float[8,8] w1, float[8,2] w2, float[N,8] in_z",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)\n b = MatMul(in_z, w2)"))  # fmt: skip
    before = ir.to_proto(model)
    applied(FuseChain(measure=False), model)
    assert ops(model) == ["MatMul", "MatMul"]
    assert_same(before, model)


@pytest.mark.parametrize(("size", "why"), [(300.0, "range of FLOAT16"), (2e-4, "too small")])
def test_half_precision_is_guarded(size, why):
    inputs, body, _ = FUSED["half precision"]
    model = seeded(graph(inputs, body))
    for value in model.graph.initializers.values():
        shape = tuple(value.shape.numpy())
        value.const_value = ir.Tensor(np.full(shape, size, np.float16), name=value.name)
    (declined,) = applied(FuseChain(measure=False), model)
    assert isinstance(declined, Declined)
    assert why in declined.why


def test_quantized_weights_stay():
    text = f"""{HEADER.format(17)}g (float[N,2] x) => (float[N,2] a)
    <int8[2,2] q = {{1, -2, 3, 4}}, float s = {{0.5}}, float[2,2] w = {{1, 2, 3, 4}}> {{
      v = DequantizeLinear(q, s)
      t = MatMul(x, v)
      a = MatMul(t, w) }}"""
    (declined,) = applied(FuseChain(measure=False), ir.from_onnx_text(text))
    assert "quantized" in declined.why


def test_bodies_and_outputs_keep_their_names():
    text = f"""{HEADER.format(17)}g (float[N,2] x, bool c) => (float[N,2] y)
    <float[2,2] w1 = {{1,2,3,4}}, float[2,2] w2 = {{8,7,6,5}}> {{
      y = If(c) <then_branch = t () => (float[N,2] p) {{
          a = MatMul(x, w1)
          p = MatMul(a, w2)
        }}, else_branch = e () => (float[N,2] q) {{ q = Neg(x) }}>
    }}"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseChain(measure=False), model)
    assert rewrite.at.endswith("then_branch/p")
    assert ops(model) == ["If", "MatMul", "Neg"]
    assert not model.graph.initializers
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for flag in (True, False):
        assert_same(before, model, {"x": x, "c": np.array(flag)})


def test_functions():
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = f.pair(x) }
    <domain: "f", opset_import: ["" : 17]> pair (x) => (y) {
      w1 = Constant<value = float[2,2] {1,2,3,4}>()
      a = MatMul(x, w1)
      k = Constant<value = float[2] {1,2}>()
      b = Add(t, k)
      w2 = Constant<value = float[2,2] {5,6,7,8}>()
      y = MatMul(b, w2)
    }""".replace("Add(t", "Add(a")
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseChain(measure=False), model)
    assert rewrite.at == "f:pair/y"
    assert ops(model) == ["pair", "MatMul", "Add"]
    assert_same(before, model)


def test_large_products_are_computed_when_they_are_read():
    model = seeded(graph("float[N,1500] x, float[1500,1200] w1, float[1200,1100] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)"))  # fmt: skip
    weights = [v.const_value.numpy().astype(np.float64) for v in model.graph.initializers.values()]
    applied(FuseChain(measure=False), model)
    (value,) = model.graph.initializers.values()
    assert isinstance(value.const_value, ir.LazyTensor)
    np.testing.assert_array_equal(
        value.const_value.numpy(), (weights[0] @ weights[1]).astype(np.float32)
    )


def test_products_are_computed_once_for_all_trials(monkeypatch):
    multiplied = []
    blocks = products._blocks

    def counted(left, right, factor):
        multiplied.append((left.shape, right.shape))
        return blocks(left, right, factor)

    monkeypatch.setattr(products, "_blocks", counted)
    inputs, body, ops_left = FUSED["MatMul, MatMul"]
    text = graph(inputs, body)
    model = seeded(text)
    known = products.Products()
    for twin in (model, snapshot(model), snapshot(model)):
        (candidate,) = find(twin, known)
        candidate.apply()
        assert ops(twin) == ops_left
        assert_same(ir.to_proto(seeded(text)), twin)
    assert multiplied == [((8, 8), (8, 4))]


def test_what_gains_is_fused_with_the_numbers(monkeypatch):
    left = [0.5, 0.75, 0.5, 0.75]
    monkeypatch.setattr(scales, "timed", lambda a, b, n: Paired(Ratios((left.pop(0),) * n)))
    inputs, body, ops_left = FUSED["Conv, Conv 1"]
    model = seeded(graph(inputs, body))
    (rewrite,) = applied(FuseChain(), model, Context())
    assert isinstance(rewrite, Rewrite)
    assert "0.44x of their MACs" in rewrite.why
    assert "batch 32: 0.75x" in rewrite.why
    assert ops(model) == ops_left


def test_what_is_slower_stays_and_is_timed_once(monkeypatch):
    left = [0.5, 1.25]
    monkeypatch.setattr(scales, "timed", lambda a, b, n: Paired(Ratios((left.pop(0),) * n)))
    inputs, body, _ = FUSED["Conv, Conv 1"]
    model = seeded(graph(inputs, body))
    (declined,) = applied(FuseChain(), model, Context())
    assert "slower or too uncertain on batch 32" in declined.why
    assert ops(model) == ["Conv", "Conv"]


def test_parameters_are_checked():
    with pytest.raises(GraphoptError, match="measure"):
        FuseChain(measure=1)  # type: ignore[arg-type]  # what a user may write
