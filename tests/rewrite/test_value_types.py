from __future__ import annotations

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.value_types import ValueTypes, operator_types

TEXT = """<ir_version: 8, opset_import: ["" : 17, "local" : 1, "com.microsoft" : 1]>
m (float16[2,3] x, int64 n, bool c, int64[2] k) => (float16[2,3] y) {
  f = Cast<to=1>(x)
  s = Shape(f)
  z = ConstantOfShape<value = double[1] {0.0}>(k)
  e = ConstantOfShape(k)
  r = RandomNormalLike<dtype=11>(f)
  l = CastLike(f, z)
  q, u, v = DynamicQuantizeLinear(f)
  t, o = TopK(x, k)
  w = FusedMatMul(x, x)
  g = com.microsoft.FusedMatMul(x, x)
  a = local.twice(f)
  b, d = Loop(n, c, a) <body = p (int64 i, bool j, float h) => (bool j2, float h2, int64 i2)
    { j2 = Identity(j)  h2 = Neg(h)  i2 = Identity(i) }>
  y = local.alike(b, x) }
<opset_import: ["" : 17], domain: "local">
twice (p1) => (r1) { r1 = Add(p1, p1) }
<opset_import: ["" : 17], domain: "local">
alike (p2, p3) => (r2) { r2 = CastLike(p2, p3) }"""

EXPECTED = {
    "x": "FLOAT16",
    "f": "FLOAT",
    "s": "INT64",
    "z": "DOUBLE",
    "e": "FLOAT",
    "r": "DOUBLE",
    "l": "DOUBLE",
    "q": "UINT8",
    "u": "FLOAT",
    "v": "UINT8",
    "t": "FLOAT16",
    "o": "INT64",
    "g": "FLOAT16",
    "a": "FLOAT",
    "b": "FLOAT",
    "d": "INT64",
    "h2": "FLOAT",
    "i2": "INT64",
    "p1": "FLOAT",
    "r1": "FLOAT",
    "p2": "FLOAT",
    "p3": "FLOAT16",
    "r2": "FLOAT16",
    "y": "FLOAT16",
}


def test_types_follow_operators_bodies_and_calls() -> None:
    model = ir.from_onnx_text(TEXT)
    types = ValueTypes(model)
    found = {}
    for scope in scopes(model):
        values = (*scope.graph.inputs, *(out for node in scope.graph for out in node.outputs))
        found |= {value.name: types(value) for value in values}
    assert {name: found[name] for name in EXPECTED} == {
        name: ir.DataType[dtype] for name, dtype in EXPECTED.items()
    }
    # There is no such operator in ONNX's own domain.
    assert found["w"] is None


def test_a_function_that_is_called_with_two_types_has_none() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        m (float[2] x, int64[2] i) => (float[2] y, int64[2] j) { y = local.f(x)  j = local.f(i) }
        <opset_import: ["" : 17], domain: "local">
        f (p) => (r) { r = Add(p, p) }"""
    )
    types = ValueTypes(model)
    (function,) = model.functions.values()
    assert types(function.inputs[0]) is None
    assert types(function.outputs[0]) is None


def test_what_is_inferred_agrees_with_shape_inference() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[1,3,8,8] x, int64[2] i) => (float[1,3,8,8] y) {
          a = Softmax(x)  b, c = Split<axis=3>(a)  d = Concat<axis=3>(c, b)  e = ArgMax(d)
          g = Equal(e, e)  h = Cast<to=10>(g)  k = QuantizeLinear(d, s, z)
          s = Constant<value_float=0.5>()  z = Constant<value = int8 {0}>()
          y = DequantizeLinear(k, s, z) }"""
    )
    model.graph.sort()
    types, shapes = ValueTypes(model), Shapes(model)
    for node in model.graph:
        for value in node.outputs:
            assert types(value) == shapes.dtype(value) is not None


def test_operators_of_onnx_runtime_are_known() -> None:
    node = ir.node("FusedMatMul", [None, None], domain="com.microsoft")
    rule = operator_types(node, 17)
    assert rule is not None
    assert ir.DataType.FLOAT16 in rule.allowed[rule.inputs[0]]
    assert operator_types(ir.node("FusedMatMul", [], domain="someone"), 17) is None
