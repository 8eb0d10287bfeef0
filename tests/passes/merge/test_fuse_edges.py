"""What real, awkward and hostile models have: old opsets, empty and overridable weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from siblings_models import HEADER, applied, assert_same, graph, ops, seeded

from graphopt.pipeline.contract import Declined
from passes.merge.fuse_chain import FuseChain
from passes.merge.fuse_siblings import FuseSiblings

BOTH = (FuseSiblings(measure=False), FuseChain(measure=False))
MEMBERS = "float[N,4] x, float[4,4] w1, float[4] b1, float[4,2] w2, float[2] b2"


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_old_opsets(opset):
    body = "a = Gemm(x, w1, b1)\n b = Gemm(x, w2, b2)\n t = MatMul(a, w2)\n c = Add(t, b2)"
    body = body.replace("MatMul(a, w2)", "MatMul(a, w3)")
    model = seeded(graph(f"{MEMBERS}, float[4,2] w3", body, opset=opset))
    before = ir.to_proto(model)
    applied(FuseSiblings(measure=False), model)
    assert ops(model) == ["Gemm", "Split", "MatMul", "Add"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_same(before, model)


def test_an_old_gemm_keeps_a_bias():
    text = graph("float[N,4] x, float[4,4] w1, float[4,2] w2",
        "z = Constant<value = float[4] {0, 0, 0, 0}>()\n t = Gemm(x, w1, z)\n a = MatMul(t, w2)",
        opset=9)  # fmt: skip
    model = seeded(text)
    before = ir.to_proto(model)
    applied(FuseChain(measure=False), model)
    assert ops(model) == ["Gemm"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_same(before, model)


def test_products_of_unknown_rank_stay_where_split_counts_axes_from_the_front():
    text = """<ir_version: 8, opset_import: ["" : 10, "f" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = f.pair(x) }
    <domain: "f", opset_import: ["" : 10]> pair (x) => (y) {
      w1 = Constant<value = float[2,2] {1,2,3,4}>()
      w2 = Constant<value = float[2,2] {5,6,7,8}>()
      a = MatMul(x, w1)
      b = MatMul(x, w2)
      y = Mul(a, b)
    }"""
    said = applied(FuseSiblings(measure=False), ir.from_onnx_text(text))
    assert len(said) == 2
    assert all("opset 10" in step.why for step in said)


def test_weights_that_a_caller_may_override_stay():
    text = f"""{HEADER.format(17)}
    g (float[N,4] x, float[4,2] w1, float[4,2] w2, float[2,2] w3) => (float[N,2] a, float[N,2] b)
    <float[4,2] w1 = {{1,2,3,4,5,6,7,8}}, float[4,2] w2 = {{1,2,3,4,5,6,7,8}},
     float[2,2] w3 = {{1,2,3,4}}> {{
      t = MatMul(x, w1)
      a = MatMul(t, w3)
      b = MatMul(x, w2)
    }}"""
    for it in BOTH:
        assert applied(it, ir.from_onnx_text(text)) == []


def test_weights_that_are_outputs_stay():
    text = f"""{HEADER.format(17)}
    g (float[N,2] x) => (float[N,2] a, float[N,2] b, float[2,2] w1)
    <float[2,2] w1 = {{1,2,3,4}}, float[2,2] w2 = {{5,6,7,8}}> {{
      a = MatMul(x, w1)
      b = MatMul(x, w2)
    }}"""
    model = ir.from_onnx_text(text)
    (declined,) = applied(FuseSiblings(measure=False), model)
    assert isinstance(declined, Declined)
    assert "is an output" in declined.why


def test_no_channels_and_no_inputs():
    text = graph("float[N,4] x, float[4,0] w1, float[4,3] w2",
        "a = MatMul(x, w1)\n b = MatMul(x, w2)")  # fmt: skip
    model = seeded(text)
    before = ir.to_proto(model)
    applied(FuseSiblings(measure=False), model)
    assert_same(before, model)
    text = graph("float[N,4] x, float[4,0] w1, float[0,3] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)")  # fmt: skip
    assert applied(FuseChain(measure=False), seeded(text)) == []


def test_infinite_weights_are_not_multiplied():
    model = seeded(graph("float[N,4] x, float[4,4] w1, float[4,2] w2",
        "t = MatMul(x, w1)\n a = MatMul(t, w2)"))  # fmt: skip
    value = model.graph.initializers["w1"]
    value.const_value = ir.Tensor(np.full((4, 4), np.inf, np.float32), name="w1")
    (declined,) = applied(FuseChain(measure=False), model)
    assert "range" in declined.why


def test_integers_stay():
    text = f"""{HEADER.format(17)}
    g (int32[N,2] x) => (int32[N,2] a, int32[N,2] b, int32[N,2] c)
    <int32[2,2] w1 = {{1,2,3,4}}, int32[2,2] w2 = {{5,6,7,8}}, int32[2,2] w3 = {{5,6,7,9}}> {{
      a = MatMul(x, w1)
      b = MatMul(x, w2)
      t = MatMul(x, w3)
      c = MatMul(t, w3)
    }}"""
    for it in BOTH:
        said = applied(it, ir.from_onnx_text(text))
        assert all(isinstance(step, Declined) for step in said)


def test_outputs_that_are_read_keep_their_places():
    proto = ir.to_proto(seeded(graph("float[N,4] x, float[4,3] w1, float[4,2] w2",
        "a = MatMul(x, w1)\n b = MatMul(x, w2)\n c = Identity(a)")))  # fmt: skip
    model = ir.from_proto(proto)
    applied(FuseSiblings(measure=False), model)
    assert [value.name for value in model.graph.outputs] == ["a", "b", "c"]
    assert_same(proto, model)


def test_siblings_behind_a_loop_variable():
    text = f"""{HEADER.format(17)}
    g (float[2,2] x) => (float[2,2] y)
    <float[2,2] w1 = {{1,0,0,1}}, float[2,2] w2 = {{0.5,0,0,0.5}}, int64 n = {{3}}, bool go = {{1}}>
    {{
      y = Loop(n, go, x) <body = b (int64 i, bool c, float[2,2] v) => (bool d, float[2,2] o) {{
        d = Identity(c)
        p = MatMul(v, w1)
        q = MatMul(v, w2)
        o = Sub(p, q)
      }}>
    }}"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    (rewrite,) = applied(FuseSiblings(measure=False), model)
    assert rewrite.at.endswith("body/p")
    assert_same(before, model, {"x": np.ones((2, 2), np.float32)})


@st.composite
def networks(draw):
    """Trees of MatMul, Gemm, Add and Relu over one input."""
    width = draw(st.integers(1, 6))
    inputs, lines, values = [f"float[N,{width}] x"], [], [("x", width)]
    for n in range(draw(st.integers(2, 9))):
        data, size = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(("MatMul", "Gemm", "Add", "Relu", "Residual")))
        out = draw(st.integers(1, 6)) if kind in ("MatMul", "Gemm") else size
        name = f"v{n}"
        if kind == "MatMul":
            inputs.append(f"float[{size},{out}] w{n}")
            lines.append(f"{name} = MatMul({data}, w{n})")
        elif kind == "Gemm":
            inputs.append(f"float[{out},{size}] w{n}, float[{out}] b{n}")
            bias = draw(st.sampled_from((f", b{n}", "")))
            lines.append(f"{name} = Gemm<transB = 1>({data}, w{n}{bias})")
        elif kind == "Add":
            inputs.append(f"float[{size}] b{n}")
            lines.append(f"{name} = Add({data}, b{n})")
        elif kind == "Relu":
            lines.append(f"{name} = Relu({data})")
        else:
            lines.append(f"{name} = Add({data}, {data})")
        values.append((name, out))
    chosen = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    outputs = ", ".join(f"float[N,{size}] {name}" for name, size in chosen)
    body = "\n ".join(lines)
    return f"{HEADER.format(17)}g ({', '.join(inputs)}) => ({outputs}) {{\n {body}\n}}"


@settings(max_examples=150)
@given(networks(), st.permutations(BOTH))
def test_any_network_computes_the_same(text, passes):
    model = seeded(text)
    before = ir.to_proto(model)
    for it in passes:
        applied(it, model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_same(before, model, rtol=1e-4)
