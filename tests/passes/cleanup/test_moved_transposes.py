from __future__ import annotations

import onnx_ir as ir
import pytest
from before_after import check, model_of, unchanged
from seeded import check_ops, check_stays

from graphopt.pipeline.contract import Rewrite
from passes.cleanup import moved_transposes

CONSTANTS = """<
  float[1,1,1,6] row = {1, 2, 3, 4, 5, 6}, float[6] flat = {1, 2, 3, 4, 5, 6}, float one = {1},
  float[4] wide = {1, 1, 2, 2}, float[4] last = {1, 2, 2, 1},
  int64[2] a12 = {1, 2}, int64[1] a2 = {2}, int64[1] a3 = {3}, int64[2] a13 = {1, 3},
  int64[3] a124 = {1, 2, 4}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4},
  int64[8] pads = {0, 1, 2, 0, 0, 1, 0, 0}, int64[5] grouped = {-1, 4, 5, 2, 3},
  int64[4] joined = {-1, 4, 5, 6}, int64[4] gate = {-1, 1, 1, 6}, int64[2] pair = {3, 3},
  int64[3] rows = {-1, 20, 6}, int64[4] tiles = {1, 2, 1, 1}
>"""


def graph(body: str, dims: str = "A,B,C,D", more: str = "") -> str:
    """Wrap nodes that make `y` of `t`, which is `x` with channels last."""
    return f"""g (float[N,6,4,5] x{more}) => (float[{dims}] y) {CONSTANTS} {{
      t = Transpose<perm = [0, 2, 3, 1]>(x)
      {body}
    }}"""


BACK = "y = Transpose<perm = [0, 3, 1, 2]>(b)"

MOVED = {
    "activations": (f"a = Relu(t)\n b = Sigmoid(a)\n {BACK}", ["Relu", "Sigmoid"]),
    "a row of channels": (f"b = Mul(t, row)\n {BACK}", ["Mul"]),
    "a vector of channels": (f"b = Sub(flat, t)\n {BACK}", ["Sub"]),
    "a scalar": (f"b = Div(one, t)\n {BACK}", ["Div"]),
    "itself": (f"b = Mul(t, t)\n {BACK}", ["Mul"]),
    "a reduction that keeps its axes": (
        f"m = ReduceMean<axes = [1, -2]>(t)\n b = Sub(t, m)\n {BACK}",
        ["ReduceMean", "Sub"],
    ),
    "a sum that keeps its axes": (
        f"m = ReduceSum(t, a3)\n b = Div(t, m)\n {BACK}",
        ["ReduceSum", "Div"],
    ),
    "a reduction over all axes": (
        f"m = ReduceMax<keepdims = 0>(t)\n b = Sub(t, m)\n {BACK}",
        ["ReduceMax", "Sub"],
    ),
    "a condition": (
        f"c = Greater(t, flat)\n b = Where(c, t, row)\n {BACK}",
        ["Greater", "Where"],
    ),
    "a slope for each channel": (f"b = PRelu(t, row)\n {BACK}", ["PRelu"]),
    "Concat": (f"a = Neg(t)\n b = Concat<axis = -1>(t, a)\n {BACK}", ["Neg", "Concat"]),
    "Split": (
        f"p, q = Split<axis = 3>(t, pair)\n b = Concat<axis = 3>(q, p)\n {BACK}",
        ["Split", "Concat"],
    ),
    "Slice": (f"b = Slice(t, zero, two, a2)\n {BACK}", ["Slice"]),
    "Slice without axes": (f"b = Slice(t, zero, two)\n {BACK}", ["Slice"]),
    "Pad": (f"b = Pad(t, pads)\n {BACK}", ["Pad"]),
    "Tile": (f"b = Tile(t, tiles)\n {BACK}", ["Tile"]),
    "Gather": (f"b = Gather<axis = 1>(t, two)\n {BACK}", ["Gather"]),
    "Resize": (f'b = Resize<mode = "linear">(t, , last)\n {BACK}', ["Resize"]),
    "softmax over rows": (f"b = Softmax<axis = 1>(t)\n {BACK}", ["Softmax"]),
    "ArgMax": (
        "i = ArgMax<axis = 3>(t)\n b = Cast<to = 1>(i)\n y = Transpose<perm = [0, 3, 1, 2]>(b)",
        ["ArgMax", "Cast"],
    ),
    "quantization": (
        "u = QuantizeLinear(t, one)\n b = DequantizeLinear(u, one)\n "
        "y = Transpose<perm = [0, 3, 1, 2]>(b)",
        ["QuantizeLinear", "DequantizeLinear"],
    ),
    "groups of channels": (
        f"g = Reshape(t, grouped)\n m = ReduceMax<axes = [1, 2, 4]>(g)\n d = Sub(g, m)\n "
        f"b = Reshape(d, joined)\n {BACK}",
        ["Reshape", "ReduceMax", "Sub", "Reshape"],
    ),
    "a gate": (
        f"m = ReduceMean<axes = [1, 2], keepdims = 0>(t)\n s = Sigmoid(m)\n "
        f"r = Reshape(s, gate)\n b = Mul(t, r)\n {BACK}",
        ["ReduceMean", "Sigmoid", "Reshape", "Mul"],
    ),
    "a gate with axes put in": (
        f"m = ReduceMean<axes = [1, 2], keepdims = 0>(t)\n s = Sigmoid(m)\n "
        f"r = Unsqueeze(s, a12)\n b = Mul(t, r)\n {BACK}",
        ["ReduceMean", "Sigmoid", "Reshape", "Mul"],
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_no_transpose_is_left(name: str) -> None:
    body, left = MOVED[name]
    check_ops(moved_transposes.rewrites, graph(body), left, room=400)


def test_readers_of_several_kinds_and_a_result_without_the_axes() -> None:
    text = """g (float[N,6,4,5] x) => (float[N,6] p, float[N,6,4,5] y)
    < int64[4] gate = {-1, 1, 1, 6}, float[6] scale = {1, 2, 3, 4, 5, 6} > {
      t = Transpose<perm = [0, 2, 3, 1]>(x)
      s = Mul(t, scale)
      p = ReduceMean<axes = [1, 2], keepdims = 0>(s)
      r = Reshape(p, gate)
      m = Mul(s, r)
      y = Transpose<perm = [0, 3, 1, 2]>(m)
    }"""
    after = """g (float[N,6,4,5] x) => (float[N,6] p, float[N,6,4,5] y)
    < float[1,6,1,1] s_1 = {1, 2, 3, 4, 5, 6}, int64[4] r_1 = {-1, 6, 1, 1} > {
      s_turned = Mul(x, s_1)
      p = ReduceMean<axes = [2, 3], keepdims = 0>(s_turned)
      r_turned = Reshape(p, r_1)
      y = Mul(s_turned, r_turned)
    }"""
    check(moved_transposes.rewrites, text, after)


def test_one_transpose_stays_for_the_reader_that_needs_it() -> None:
    body = "a = Relu(t)\n b = Add(a, row)\n z = Transpose<perm = [0, 3, 1, 2]>(b)\n" + (
        "w = MatMul(a, in_w)\n v = ReduceSum<keepdims = 0>(w)\n y = Add(z, v)"
    )
    text = graph(body, more=", float[6,2] in_w")
    left = ["Relu", "Transpose", "Add", "MatMul", "ReduceSum", "Add"]
    check_ops(moved_transposes.rewrites, text, left, room=100)


def test_transposes_behind_every_output_are_one_in_front() -> None:
    text = """g (float[N,6,4] x) => (float[N,4,A] y, float[N,4,B] z, float[N,4,C] v)
    < int64[3] sizes = {1, 2, 3} > {
      n = Neg(x)
      p, q, r = Split<axis = 1>(n, sizes)
      y = Transpose<perm = [0, 2, 1]>(p)
      z = Transpose<perm = [0, 2, 1]>(q)
      v = Transpose<perm = [0, 2, 1]>(r)
    }"""
    check_ops(moved_transposes.rewrites, text, ["Neg", "Transpose", "Split"], room=100)


def test_operands_that_are_transposed_alike_meet_before() -> None:
    text = """g (float[N,6,4] x, float[N,6,4] in_z) => (float[N,4,6] y) {
      a = Transpose<perm = [0, 2, 1]>(x)
      b = Transpose<perm = [0, 2, 1]>(in_z)
      y = Add(a, b)
    }"""
    model = check_ops(moved_transposes.rewrites, text, ["Add", "Transpose"], room=50)
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_an_output_that_is_an_input_again_is_handed_on() -> None:
    text = """g (float[N,6,4] x) => (float[N,6,4] y, float[N,6,4] z, float[N,6,4] v) {
      t = Transpose<perm = [0, 2, 1]>(x)
      a = Relu(t)
      y = Transpose<perm = [0, 2, 1]>(a)
      z = Transpose<perm = [0, 2, 1]>(a)
      v = Transpose<perm = [0, 2, 1]>(t)
    }"""
    check_ops(moved_transposes.rewrites, text, ["Relu", "Identity", "Identity"], room=50)


STAYS = {
    "the result is wanted so": graph("y = Relu(t)"),
    "a product of matrices": graph("y = MatMul(t, in_w)", more=", float[6,2] in_w"),
    "its shape is asked for": graph("s = Shape(t)\n y = Expand(t, s)"),
    "softmax keeps to the last axis": graph(f"b = Softmax(t)\n {BACK}"),
    "kernels interpolate the last axes only": (
        "g (float[N,6,4,5] x) => (float[A,B,C,D] y) < float[4] scales = {1, 1, 2, 2} > {\n"
        " t = Transpose<perm = [0, 2, 3, 1]>(x)\n"
        ' b = Resize<mode = "linear">(t, , scales)\n'
        " y = Transpose<perm = [0, 3, 1, 2]>(b)\n}"
    ),
    "axes of two blocks are joined": graph("r = Reshape(t, rows)\n y = Neg(r)", "A,B,C"),
    "an operand that would need axes": graph(f"b = Mul(t, in_v)\n {BACK}", more=", float[6] in_v"),
    "an operator that is not known": graph(f"b = LpNormalization(t)\n {BACK}"),
    "more elements would move": """g (float[N,6,1] x, float[N,1,9] in_z) => (float[N,9,6] y) {
        a = Transpose<perm = [0, 2, 1]>(x)
        b = Transpose<perm = [0, 2, 1]>(in_z)
        y = Mul(a, b)
      }""",
}


@pytest.mark.parametrize("name", STAYS)
def test_nothing_is_to_be_done(name: str) -> None:
    assert check_stays(moved_transposes.rewrites, STAYS[name]) == []


def test_a_transpose_between_two_values_that_could_turn_counts_once() -> None:
    text = """g (float[4,4] x) => (float[4,4] y) {
      n = Neg(x)
      t = Transpose<perm = [1, 0]>(n)
      y = Add(n, t)
    }"""
    assert unchanged(moved_transposes.rewrites, text) == []


def test_a_transpose_may_read_what_comes_turned_itself() -> None:
    text = """g (float[3,3,3,3] x) => (float[3,3,3,3] y, float[3,3,3,3] z) {
      t = Transpose<perm = [0, 2, 3, 1]>(x)
      r = Relu(t)
      u = Transpose<perm = [0, 2, 3, 1]>(r)
      b = Sub(u, t)
      y = Transpose<perm = [0, 3, 1, 2]>(b)
      z = Transpose<perm = [0, 3, 1, 2]>(r)
    }"""
    check_ops(moved_transposes.rewrites, text, ["Relu", "Transpose", "Sub"], room=100)


def test_operators_of_other_domains_stay() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,6,4] x) => (float[N,6,4] y) {
      t = Transpose<perm = [0, 2, 1]>(x)
      b = com.microsoft.Gelu(t)
      y = Transpose<perm = [0, 2, 1]>(b)
    }"""
    assert unchanged(moved_transposes.rewrites, text) == []


def test_a_large_constant_is_not_stored_twice() -> None:
    text = """g (float[N,60,40] x, float[N,40,60] in_z, float[40,60] w)
      => (float[N,60,40] y, float[N,40,60] z) {
      t = Transpose<perm = [0, 2, 1]>(x)
      b = Mul(t, w)
      y = Transpose<perm = [0, 2, 1]>(b)
      z = Mul(in_z, w)
    }"""
    assert check_stays(moved_transposes.rewrites, text) == []
    alone = text.replace("z = Mul(in_z, w)", "z = Neg(in_z)")
    check_ops(moved_transposes.rewrites, alone, ["Mul", "Neg"], room=50)


def test_old_opsets_keep_settings_in_attributes() -> None:
    text = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[N,6,4,5] x) => (float[A,B,C,D] y) {
      t = Transpose<perm = [0, 2, 3, 1]>(x)
      s = Slice<axes = [1, -1], starts = [1, 0], ends = [3, 5]>(t)
      p = Pad<pads = [0, 1, 0, 2, 0, 0, 3, 0]>(s)
      b = ReduceSum<axes = [1]>(p)
      y = Transpose<perm = [0, 3, 1, 2]>(b)
    }"""
    check_ops(moved_transposes.rewrites, text, ["Slice", "Pad", "ReduceSum"])


def test_operands_of_opset_6_do_not_broadcast() -> None:
    text = """<ir_version: 3, opset_import: ["" : 6]>
    g (float[2,6,4] x, float[6] in_z) => (float[2,6,4] y) {
      t = Transpose<perm = [0, 2, 1]>(x)
      b = Add<axis = 2, broadcast = 1>(t, in_z)
      y = Transpose<perm = [0, 2, 1]>(b)
    }"""
    model = model_of(text)
    assert not [s for s in moved_transposes.rewrites(model) if isinstance(s, Rewrite)]


def test_bodies_and_functions_are_covered() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,3,4] x, bool in_c) => (float[A,B,C] y) {
      y = If (in_c) <
        then_branch = a () => (float[A,B,C] p) {
          t = Transpose<perm = [0, 2, 1]>(x)
          w = Constant<value = float[3] {1, 2, 3}>()
          m = Mul(t, w)
          p = Transpose<perm = [0, 2, 1]>(m)
        },
        else_branch = b () => (float[A,B,C] q) { q = local.gate(x) }
      >
    }
    <domain: "local", opset_import: ["" : 17]>
    gate (x) => (y) {
      t = Transpose<perm = [0, 2, 1]>(x)
      w = Constant<value = float[3] {1, 2, 3}>()
      m = ReduceMean<axes = [1]>(t)
      s = Mul(t, m)
      v = Sub(s, w)
      y = Transpose<perm = [0, 2, 1]>(v)
    }"""
    left = ["If", "Mul", "gate", "ReduceMean", "Mul", "Sub"]
    check_ops(moved_transposes.rewrites, text, left, room=100)


def test_a_body_that_reads_a_value_wants_it_as_it_is() -> None:
    text = """g (float[N,3,4] x, bool in_c) => (float[A,B,C] y) {
      t = Transpose<perm = [0, 2, 1]>(x)
      r = Relu(t)
      z = Transpose<perm = [0, 2, 1]>(r)
      y = If (in_c) <
        then_branch = a () => (float[A,B,C] p) { p = Neg(r) },
        else_branch = b () => (float[A,B,C] q) { q = Neg(z) }
      >
    }"""
    check_ops(moved_transposes.rewrites, text, ["Relu", "Transpose", "If", "Neg", "Neg"], room=50)


def test_a_rewrite_that_is_not_applied_changes_nothing() -> None:
    model = model_of(graph(f"b = Relu(t)\n {BACK}"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert len([s for s in moved_transposes.rewrites(model) if isinstance(s, Rewrite)]) >= 1
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
