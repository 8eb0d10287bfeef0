"""Siblings whose weights or outputs are quantized."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from siblings_models import HEADER, applied, assert_same, ops

from passes.merge.fuse_siblings import FuseSiblings

QUANTIZED = {
    "per tensor": ("float s1 = {0.5}, float s2 = {0.25}", "(q1, s1)", "(q2, s2)", "0"),
    "per tensor alike": ("float s1 = {0.5}, float s2 = {0.5}", "(q1, s1)", "(q2, s2)", "0"),
    "with a zero point": (
        "float s1 = {0.5}, float s2 = {0.25}, int8 z = {3}", "(q1, s1, z)", "(q2, s2)", "0"),
    "per channel": (
        "float[2] s1 = {0.5, 0.25}, float[3] s2 = {1, 2, 4}",
        "<axis = 0>(q1, s1)", "<axis = -2>(q2, s2)", "0"),
    "mixed": (
        "float s1 = {0.5}, float[3] s2 = {1, 2, 4}, int8[3] z = {1, -2, 3}",
        "(q1, s1)", "<axis = 0>(q2, s2, z)", "0"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights_stay_quantized(name):
    scales_, first, second, _ = QUANTIZED[name]
    text = f"""{HEADER.format(17)}g (float[N,2] x) => (float[N,A] a, float[N,B] b)
    <int8[2,2] q1 = {{1, -2, 3, 4}}, int8[3,2] q2 = {{5, 6, -7, 8, 9, 10}}, {scales_}> {{
      w1 = DequantizeLinear{first}
      w2 = DequantizeLinear{second}
      a = Gemm<transB = 1>(x, w1)
      b = Gemm<transB = 1>(x, w2)
    }}"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model)
    applied(FuseSiblings(measure=False), model)
    assert ops(model) == ["DequantizeLinear", "Gemm", "Split"]
    kept = [v.const_value for v in model.graph.initializers.values()]
    assert any(t.dtype == ir.DataType.INT8 and t.size == 10 for t in kept)
    scale = next(t for t in kept if t.dtype == ir.DataType.FLOAT)
    assert scale.size == (1 if name == "per tensor alike" else 5)
    assert_same(before, model)


def quantized(body, more=""):
    return ir.from_onnx_text(f"""{HEADER.format(17)}
    g (float[N,2] x) => (float[N,2] a, float[N,2] b)
    <int8[2,2] q1 = {{1, -2, 3, 4}}, int8[2,2] q2 = {{5, 6, -7, 8}}, float s = {{0.5}},
     float[2] rows = {{0.5, 2}}{more}> {{ {body} }}""")


def test_scales_per_input_channel_stay():
    model = quantized("""w1 = DequantizeLinear<axis = 0>(q1, rows)
      w2 = DequantizeLinear(q2, s)
      a = MatMul(x, w1)
      b = MatMul(x, w2)""")
    said = applied(FuseSiblings(measure=False), model)
    assert ["quantized along another axis" in step.why for step in said] == [True]


def test_outputs_that_are_quantized_apart_stay():
    model = quantized("""w1 = DequantizeLinear(q1, s)
      w2 = DequantizeLinear(q2, s)
      t = MatMul(x, w1)
      p = QuantizeLinear(t, s)
      a = DequantizeLinear(p, s)
      b = MatMul(x, w2)""")
    said = applied(FuseSiblings(measure=False), model)
    assert ["scale of its own" in step.why for step in said] == [True]
