from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from siblings_models import HEADER, applied, assert_same, graph, ops, seeded

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.runtime.paired import Paired, Ratios
from passes.merge.fuse_siblings import FuseSiblings
from passes.merge.gain import scales

FUSED = {
    "query, key and value": (
        "float[N,5,8] x, float[8,8] wq, float[8,8] wk, float[8,4] wv",
        "a = MatMul(x, wq)\n b = MatMul(x, wk)\n c = MatMul(x, wv)",
        ["MatMul", "Split"],
    ),
    "with Adds behind": (
        "float[N,5,8] x, float[8,8] wq, float[8] bq, float[8,3] wk, float[1,1,3] bk",
        "t = MatMul(x, wq)\n a = Add(t, bq)\n u = MatMul(x, wk)\n b = Add(bk, u)",
        ["MatMul", "Add", "Split"],
    ),
    "an Add behind one": (
        "float[N,5,8] x, float[8,8] wq, float[8] bq, float[8,3] wk",
        "t = MatMul(x, wq)\n a = Add(t, bq)\n b = MatMul(x, wk)",
        ["MatMul", "Add", "Split"],
    ),
    "an Add of one number": (
        "float[N,5,8] x, float[8,8] wq, float bq, float[8,3] wk",
        "t = MatMul(x, wq)\n a = Add(t, bq)\n b = MatMul(x, wk)",
        ["MatMul", "Add", "Split"],
    ),
    "an Add of activations stays": (
        "float[N,8] x, float[8,8] wq, float[8,8] wk",
        "t = MatMul(x, wq)\n a = Add(t, x)\n b = MatMul(x, wk)",
        ["MatMul", "Split", "Add"],
    ),
    "batches of matrices": (
        "float[2,5,8] x, float[2,8,6] wq, float[2,8,3] wk",
        "a = MatMul(x, wq)\n b = MatMul(x, wk)",
        ["MatMul", "Split"],
    ),
    "weights on the left": (
        "float[N,8,5] x, float[6,8] wq, float[3,8] wk",
        "a = MatMul(wq, x)\n b = MatMul(wk, x)",
        ["MatMul", "Split"],
    ),
    "vectors": (
        "float[8] x, float[8,6] wq, float[8,3] wk",
        "a = MatMul(x, wq)\n b = MatMul(x, wk)",
        ["MatMul", "Split"],
    ),
    "Gemm with biases, without and with one number": (
        "float[N,8] x, float[6,8] w1, float[6] b1, float[3,8] w2, float[4,8] w3, float[1] b3",
        "a = Gemm<transB = 1>(x, w1, b1)\n b = Gemm<transB = 1>(x, w2)\n"
        "c = Gemm<transB = 1>(x, w3, b3)",
        ["Gemm", "Split"],
    ),
    "Gemm with factors": (
        "float[8,N] x, float[8,6] w1, float[1,6] b1, float[8,3] w2, float[3] b2",
        "a = Gemm<alpha = 0.5, beta = 2.0, transA = 1>(x, w1, b1)\n"
        "b = Gemm<beta = 2.0, alpha = 0.5, transA = 1>(x, w2, b2)",
        ["Gemm", "Split"],
    ),
    "Conv of Inception": (
        "float[N,4,6,6] x, float[3,4,1,1] w1, float[3] b1, float[2,4,1,1] w2, float[5,4,1,1] w3",
        "a = Conv(x, w1, b1)\n b = Conv<kernel_shape = [1, 1], group = 1>(x, w2)\n"
        "c = Conv<strides = [1, 1], pads = [0, 0, 0, 0]>(x, w3)",
        ["Conv", "Split"],
    ),
    "two kinds of Conv": (
        "float[N,4,6,6] x, float[3,4,1,1] w1, float[2,4,1,1] w2, float[2,4,3,3] w3,"
        " float[2,4,3,3] w4",
        'a = Conv(x, w1)\n b = Conv<auto_pad = "SAME_UPPER">(x, w3)\n c = Conv(x, w2)\n'
        'd = Conv<auto_pad = "SAME_UPPER">(x, w4)',
        ["Conv", "Split", "Conv", "Split"],
    ),
    "one dimension": (
        "float[N,4,9] x, float[3,4,3] w1, float[2,4,3] w2",
        "a = Conv<pads = [1, 1], dilations = [2], strides = [2]>(x, w1)\n"
        "b = Conv<dilations = [2], pads = [1, 1], strides = [2]>(x, w2)",
        ["Conv", "Split"],
    ),
    "weights shared by siblings": (
        "float[N,8] x, float[8,6] w, float[6] b1",
        "t = MatMul(x, w)\n a = Add(t, b1)\n b = MatMul(x, w)",
        ["MatMul", "Add", "Split"],
    ),
    "the same activations": (
        "float[N,4,6,6] x, float[3,4,1,1] w1, float[3] b1, float[2,4,1,1] w2",
        "s = Conv(x, w1, b1)\n t = Relu(s)\n a = Sigmoid(t)\n u = Conv(x, w2)\n v = Relu(u)\n"
        "b = Tanh(v)",
        ["Conv", "Relu", "Split", "Sigmoid", "Tanh"],
    ),
    "activations with settings": (
        "float[N,8] x, float[8,6] w1, float[6] b1, float[8,3] w2, float[8,2] w3",
        "s = MatMul(x, w1)\n t = Add(s, b1)\n a = LeakyRelu<alpha = 0.5>(t)\n"
        "u = MatMul(x, w2)\n b = LeakyRelu<alpha = 0.5>(u)\n"
        "v = MatMul(x, w3)\n c = LeakyRelu<alpha = 0.5>(v)",
        ["MatMul", "Add", "LeakyRelu", "Split"],
    ),
    "other activations": (
        "float[N,8] x, float[8,6] w1, float[8,3] w2",
        "t = MatMul(x, w1)\n a = LeakyRelu<alpha = 0.5>(t)\n"
        "u = MatMul(x, w2)\n b = LeakyRelu<alpha = 0.25>(u)",
        ["MatMul", "Split", "LeakyRelu", "LeakyRelu"],
    ),
    "bounds behind the first sibling": (
        "float[N,8] x, float[8,6] w1, float[8,3] w2",
        "t = MatMul(x, w1)\n l = Constant<value = float {-1}>()\n a = Clip(t, l)\n"
        "u = MatMul(x, w2)\n m = Constant<value = float {-1}>()\n b = Clip(u, m)",
        ["MatMul", "Clip", "Split"],
    ),
    "other bounds": (
        "float[N,8] x, float[8,6] w1, float[8,3] w2, float l, float m",
        "t = MatMul(x, w1)\n a = Clip(t, l)\n u = MatMul(x, w2)\n b = Clip(u, m)",
        ["MatMul", "Split", "Clip", "Clip"],
    ),
    "an activation that is not alone": (
        "float[N,8] x, float[8,6] w1, float[8,3] w2",
        "a = MatMul(x, w1)\n b = Relu(a)\n u = MatMul(x, w2)\n c = Relu(u)",
        ["MatMul", "Split", "Relu", "Relu"],
    ),
    "half precision": (
        "float16[N,8] x, float16[8,6] w1, float16[8,3] w2",
        "a = MatMul(x, w1)\n b = MatMul(x, w2)",
        ["MatMul", "Split"],
    ),
}


@pytest.mark.parametrize(("inputs", "body", "left"), FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_siblings_become_one(inputs, body, left, opset):
    model = seeded(graph(inputs, body, opset=opset))
    before = ir.to_proto(model)
    applied(FuseSiblings(measure=False), model)
    assert ops(model) == left
    assert_same(before, model, rtol=1e-2 if "float16" in inputs else 1e-5)
    assert applied(FuseSiblings(measure=False), model) == []


STAYS = {
    "other inputs": (
        "float[N,8] x, float[N,8] in_z, float[8,6] w1, float[8,3] w2",
        "a = MatMul(x, w1)\n b = MatMul(in_z, w2)",
        None,
    ),
    "one behind the other": (
        "float[N,8] x, float[8,8] w1, float[8,3] w2",
        "a = MatMul(x, w1)\n b = MatMul(a, w2)",
        None,
    ),
    "other strides": (
        "float[N,4,6,6] x, float[3,4,1,1] w1, float[2,4,1,1] w2",
        "a = Conv(x, w1)\n b = Conv<strides = [2, 2]>(x, w2)",
        None,
    ),
    "other factors": (
        "float[N,8] x, float[8,6] w1, float[8,3] w2",
        "a = Gemm<alpha = 0.5>(x, w1)\n b = Gemm(x, w2)",
        None,
    ),
    "computed weights": (
        "float[N,8] x, float[8,6] in_a, float[8,3] in_b",
        "a = MatMul(x, in_a)\n b = MatMul(x, in_b)",
        None,
    ),
    "groups": (
        "float[N,4,6,6] x, float[4,2,1,1] w1, float[2,2,1,1] w2",
        "a = Conv<group = 2>(x, w1)\n b = Conv<group = 2>(x, w2)",
        "2 groups",
    ),
    "other readers": (
        "float[N,8] x, float[8,8] w1, float[8,3] w2",
        "a = MatMul(x, w1)\n b = MatMul(x, w2)\n c = MatMul(a, w1)",
        "others read its weight w1",
    ),
    "a computed bias": (
        "float[N,8] x, float[8,8] w1, float[8,8] w2",
        "a = Gemm(x, w1, x)\n b = Gemm(x, w2)",
        "bias is computed",
    ),
    "a bias per row": (
        "float[3,8] x, float[8,8] w1, float[3,8] b1, float[8,8] w2",
        "a = Gemm(x, w1, b1)\n b = Gemm(x, w2)",
        "not one number per channel",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "why"), STAYS.values(), ids=STAYS)
def test_others_stay(inputs, body, why):
    model = seeded(graph(inputs, body))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    said = applied(FuseSiblings(measure=False), model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert all(isinstance(step, Declined) for step in said)
    assert bool(said) == (why is not None)
    assert why is None or any(why in step.why for step in said)


def test_outputs_keep_their_names_and_readers():
    text = graph(
        "float[N,8] x, float[8,6] w1, float[8,3] w2",
        "a = MatMul(x, w1)\n t = MatMul(x, w2)\n b = Relu(t)\n c = Identity(t)",
    )
    model = seeded(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseSiblings(measure=False), model)
    assert rewrite.why == "2 MatMul that read x become one of 9 channels and a Split"
    split = next(node for node in model.graph if node.op_type == "Split")
    assert [output.name for output in split.outputs] == ["a", "t"]
    assert sorted(v.size for v in (i.const_value for i in model.graph.initializers.values())) == [
        2, 72,
    ]  # fmt: skip
    assert_same(before, model)


def test_bodies():
    text = f"""{HEADER.format(17)}g (float[N,4] x, bool c) => (float[N,2] y)
    <float[4,2] w1 = {{1,2,3,4,5,6,7,8}}, float[4,2] w2 = {{8,7,6,5,4,3,2,1}}> {{
      y = If(c) <then_branch = t () => (float[N,2] p) {{
          v = Constant<value = float[4,2] {{1,0,0,1,1,0,0,1}}>()
          a = MatMul(x, w1)
          b = MatMul(x, v)
          p = Sub(a, b)
        }}, else_branch = e () => (float[N,2] q) {{ q = MatMul(x, w2) }}>
    }}"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseSiblings(measure=False), model)
    assert rewrite.at.endswith("then_branch/a")
    assert ops(model) == ["If", "MatMul", "Split", "Sub", "MatMul"]
    for flag in (True, False):
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        assert_same(before, model, {"x": x, "c": np.array(flag)})


def test_functions():
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = f.pair(x) }
    <domain: "f", opset_import: ["" : 17]> pair (x) => (y) {
      w1 = Constant<value = float[2,2] {1,2,3,4}>()
      a = MatMul(x, w1)
      w2 = Constant<value = float[2,2] {5,6,7,8}>()
      t = MatMul(x, w2)
      k = Constant<value = float[2] {1,2}>()
      b = Add(t, k)
      y = Mul(a, b)
    }"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseSiblings(measure=False), model)
    assert rewrite.at == "f:pair/a"
    assert ops(model) == ["pair", "MatMul", "Add", "Split", "Mul"]
    assert_same(before, model)


def test_settings_of_the_call_are_not_known():
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = f.pair<t = 1>(x) }
    <domain: "f", opset_import: ["" : 17]> pair <t> (x) => (y) {
      w1 = Constant<value = float[2,2] {1,2,3,4}>()
      w2 = Constant<value = float[2,2] {5,6,7,8}>()
      a = Gemm<transB: int = @t>(x, w1)
      b = Gemm<transB: int = @t>(x, w2)
      y = Mul(a, b)
    }"""
    assert applied(FuseSiblings(measure=False), ir.from_onnx_text(text)) == []


def test_globs():
    inputs, body, _ = FUSED["query, key and value"]
    for options in ({"exclude": "wk"}, {"include": ("wq", "c")}):
        model = seeded(graph(inputs, body))
        applied(FuseSiblings(measure=False, **options), model)
        assert ops(model) == ["MatMul", "Split", "MatMul"]


def test_large_weights_are_put_together_when_they_are_read():
    text = graph("float[N,1024] x, float[1024,1024] w1, float[1024,1024] w2",
                 "a = MatMul(x, w1)\n b = MatMul(x, w2)")  # fmt: skip
    model = seeded(text)
    before = ir.to_proto(model)
    applied(FuseSiblings(measure=False), model)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    assert sum(isinstance(tensor, ir.LazyTensor) for tensor in tensors) == 1
    assert_same(before, model, rtol=1e-3)


def clock(monkeypatch, *ratios):
    left = list(ratios)
    monkeypatch.setattr(
        scales, "timed", lambda a, b, n: Paired(Ratios((left.pop(0),) * n)), raising=True
    )


def test_what_gains_is_fused_with_the_numbers(monkeypatch):
    clock(monkeypatch, 0.5, 0.75, 0.5, 0.75)
    inputs, body, left = FUSED["query, key and value"]
    model = seeded(graph(inputs, body))
    (rewrite,) = applied(FuseSiblings(), model, Context())
    assert isinstance(rewrite, Rewrite)
    assert "batch 1: 0.50x" in rewrite.why
    assert rewrite.details["ratio, batch 32"] == 0.75
    assert ops(model) == left


def test_what_is_slower_stays_with_the_numbers(monkeypatch):
    clock(monkeypatch, 0.5, 1.25)
    inputs, body, _ = FUSED["query, key and value"]
    model = seeded(graph(inputs, body))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    (declined,) = applied(FuseSiblings(), model, Context())
    assert isinstance(declined, Declined)
    assert "slower or too uncertain on batch 32: 1.25x" in declined.why
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_one_kind_may_gain_where_the_other_does_not(monkeypatch):
    clock(monkeypatch, 0.5, 1.25, *[0.5] * 4, 1.5, 1.5)
    inputs, body, _ = FUSED["two kinds of Conv"]
    model = seeded(graph(inputs, body))
    said = applied(FuseSiblings(), model, Context())
    assert sorted(type(step).__name__ for step in said) == ["Declined", "Rewrite"]
    assert sorted(ops(model)) == ["Conv", "Conv", "Conv", "Split"]


def test_parameters_are_checked():
    with pytest.raises(GraphoptError, match="measure"):
        FuseSiblings(measure="no")  # type: ignore[arg-type]  # what a user may write


def test_the_result_is_valid():
    for inputs, body, _ in FUSED.values():
        model = seeded(graph(inputs, body))
        applied(FuseSiblings(measure=False), model)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
