"""Branches, loops and scans run as ONNX Runtime runs them, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from against_onnx_runtime import compare, model_of

from graphopt.training import OnnxModule

ROWS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
YES, NO = np.array(True), np.array(False)


def integer(value: int) -> np.ndarray[Any, Any]:
    return np.array(value, dtype=np.int64)


BRANCHES = """g (float[A,3] x, bool c, float[3] w) => (float y, int64 n) {
    s = Shape(x) w2 = Mul(w, w)
    y, n = If(c) <
        then_branch = a () => (float p, int64 k) {
            q = Expand(w2, s) p = Add(q, x) k = Size(x) },
        else_branch = b () => (float p, int64 k) {
            z = Constant<value_int=0>() p = Gather(x, z) k = Identity(z) }
    > }"""

TRUE_LOOP = """g (float[A,3] x, int64 m) => (float y, float z) {
    c = Constant<value = bool {1}>()
    y, z = Loop(m, c, x) <body = b (int64 i, bool c1, float[A,3] v)
        => (bool c2, float[A,3] v2, float[A,3] o) {
        f = Cast<to=1>(i) v2 = Add(v, f) o = Mul(v2, x) c2 = Identity(c1) }> }"""

WHILE = """g (float[A,3] x, float most) => (float y, int64 n) {
    c = Constant<value = bool {1}>() z = Constant<value_int=0>()
    y, n = Loop("", c, x, z) <body = b (int64 i, bool c1, float[A,3] v, int64 k)
        => (bool c2, float[A,3] v2, int64 k2) {
        v2 = Add(v, v) one = Constant<value_int=1>() k2 = Add(k, one)
        a = Abs(v2) m = ReduceMax<keepdims=0>(a) c2 = Less(m, most) }> }"""

GROWING = """g (float[A,3] x, int64 m) => (float y) {
    c = Constant<value = bool {1}>()
    y = Loop(m, c, x) <body = b (int64 i, bool c1, float[B,3] v) => (bool c2, float[D,3] v2) {
        v2 = Concat<axis=0>(v, x) c2 = Identity(c1) }> }"""

EARLY_END = """g (float[A,3] x, int64 m, float most) => (float z) {
    c = Constant<value = bool {1}>() one = Constant<value = float {1.0}>()
    y, z = Loop(m, c, one) <body = b (int64 i, bool c1, float v) => (bool c2, float v2, float o) {
        v2 = Add(v, v) r = Gather<axis=0>(x, i) s = ReduceSum<keepdims=0>(r) o = Mul(s, v)
        c2 = Less(v2, most) }> }"""

NUMBERS_CARRIED = """g (float[A,3] x, int64 m) => (float y) {
    c = Constant<value = bool {1}>() s = Shape(x)
    t = Loop(m, c, s) <body = b (int64 i, bool c1, int64[2] v) => (bool c2, int64[2] v2) {
        z = Constant<value_ints=[0]>() one = Constant<value_ints=[1]>()
        two = Constant<value_ints=[2]>() p = Slice(v, z, one) q = Slice(v, one, two)
        v2 = Concat<axis=0>(q, p) c2 = Identity(c1) }>
    y = Reshape(x, t) }"""

LIST_CARRIED = """g (float[A,3] x, int64 m) => (float y) {
    c = Constant<value = bool {1}>() e = SequenceEmpty<dtype=1>()
    l = Loop(m, c, e) <body = b (int64 i, bool c1, seq(float[3]) v)
        => (bool c2, seq(float[3]) v2) {
        r = Gather<axis=0>(x, i) v2 = SequenceInsert(v, r) c2 = Identity(c1) }>
    y = ConcatFromSequence<axis=0, new_axis=1>(l) }"""


@pytest.mark.parametrize("condition", [YES, NO])
def test_if(condition: np.ndarray[Any, Any]) -> None:
    compare(model_of(BRANCHES), ROWS, condition, np.ones(3, np.float32))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_loop_that_counts(count: int) -> None:
    compare(model_of(TRUE_LOOP), ROWS, integer(count), rtol=1e-6)


def test_a_loop_that_never_runs_collects_outputs_of_the_sizes_that_are_known() -> None:
    model = model_of(TRUE_LOOP.replace("float[A,3] o)", "float[4,3] o)"))
    assert OnnxModule(model)(torch.ones(4, 3), torch.tensor(0))[1].shape == (0, 4, 3)


@pytest.mark.parametrize("most", [0.0, 100.0])
def test_a_loop_that_data_ends(most: float) -> None:
    compare(model_of(WHILE), ROWS, np.array(most, dtype=np.float32))


def test_a_loop_whose_state_grows() -> None:
    compare(model_of(GROWING), ROWS, integer(3))


@pytest.mark.parametrize("most", [3.0, 100.0])
def test_a_loop_that_counts_and_that_data_may_end_before(most: float) -> None:
    arrays = (integer(4), np.array(most, dtype=np.float32))
    compare(model_of(EARLY_END), ROWS, *arrays, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_a_loop_that_carries_a_shape(count: int) -> None:
    compare(model_of(NUMBERS_CARRIED), ROWS, integer(count))


def test_a_loop_that_carries_a_list() -> None:
    compare(model_of(LIST_CARRIED), ROWS, integer(4))


def test_a_loop_that_does_not_start() -> None:
    model = model_of(WHILE.replace("bool {1}", "bool {0}"))
    compare(model, ROWS, np.array(3, dtype=np.float32))


def scan(attributes: str) -> str:
    return f"""g (float[A,3] x, float[3] h) => (float y, float z, float w) {{
        y, z, w = Scan<num_scan_inputs=1{attributes}, body = b (float[3] v, float[3] u)
            => (float[3] v2, float[3] o, float p) {{
            v2 = Add(v, u) o = Mul(v2, v) p = ReduceSum<keepdims=0>(o) }}>(h, x) }}"""


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        ", scan_input_directions=[1]",
        ", scan_output_directions=[1, 0]",
        ", scan_output_axes=[1, 0]",
        ", scan_input_directions=[1], scan_output_directions=[0, 1], scan_output_axes=[-1, 0]",
    ],
)
def test_scan(attributes: str) -> None:
    compare(model_of(scan(attributes)), ROWS, np.ones(3, np.float32), rtol=1e-6, atol=1e-7)


def test_scan_along_another_axis() -> None:
    text = scan(", scan_input_axes=[1]").replace("x, float[3] h", "x, float[A] h")
    text = text.replace("float[3] v", "float[A] v").replace("float[3] u", "float[A] u")
    text = text.replace("float[3] o", "float[A] o")
    compare(model_of(text), ROWS, np.ones(4, np.float32), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "others"),
    [
        (BRANCHES.replace(", int64 n)", ")").replace("y, n =", "y, n ="), [True, 3]),
        (TRUE_LOOP, [3]),
        (scan(""), [3.0]),
        (GROWING, [2]),
    ],
    ids=["if", "loop", "scan", "growing"],
)
def test_gradients_flow_through_bodies(text: str, others: list[Any]) -> None:
    module = OnnxModule(model_of(text.replace("float", "double").replace("to=1>", "to=11>")))
    x = torch.from_numpy(ROWS[:2].astype(np.float64)).requires_grad_()
    given = [torch.ones(3, dtype=torch.float64) if each == 3.0 and text is not TRUE_LOOP
             else torch.tensor(each) for each in others]  # fmt: skip
    assert torch.autograd.gradcheck(module, (x, *given))


def test_gradients_reach_weights_that_a_body_reads() -> None:
    model = model_of(
        """g (float[A,3] x, bool c) => (float y) <float[3] w = {1, 2, 3}> {
        y = If(c) <then_branch = a () => (float p) { p = Mul(x, w) },
                   else_branch = b () => (float p) { p = Identity(x) }> }"""
    )
    module = OnnxModule(model)
    module(torch.ones(2, 3), torch.tensor(True)).sum().backward()
    assert module.w.grad.tolist() == [2.0, 2.0, 2.0]


SEQUENCES = {
    "at": "l = SequenceConstruct(x, a) y = SequenceAt(l, i)",
    "insert": "l = SequenceConstruct(x, x) k = SequenceInsert(l, a, i) y = SequenceAt(k, i)",
    "insert at the end": """l = SequenceConstruct(x, x) k = SequenceInsert(l, a)
        m = Constant<value_int=-1>() y = SequenceAt(k, m)""",
    "insert behind the last": """l = SequenceConstruct(x) k = SequenceInsert(l, a, i)
        y = SequenceAt(k, i)""",
    "erase": "l = SequenceConstruct(x, a, x) k = SequenceErase(l, i) y = SequenceAt(k, i)",
    "erase the last": """l = SequenceConstruct(x, a) k = SequenceErase(l)
        y = ConcatFromSequence<axis=0>(k)""",
    "length": """l = SequenceConstruct(x, a) n = SequenceLength(l) f = Cast<to=1>(n)
        y = Add(x, f)""",
    "stack": "l = SequenceConstruct(x, a) y = ConcatFromSequence<axis=-1, new_axis=1>(l)",
    "split": """l = SplitToSequence<axis=1>(x) n = SequenceAt(l, i) y = Add(n, a)""",
    "split without the axis": """l = SplitToSequence<axis=0, keepdims=0>(x)
        y = SequenceAt(l, i)""",
    "split in equal parts": """s = Constant<value_int=3>() l = SplitToSequence<axis=0>(x, s)
        m = Constant<value_int=-1>() y = SequenceAt(l, m)""",
    "split in given parts": """s = Constant<value_ints=[1,3]>()
        l = SplitToSequence<axis=0>(x, s) m = Constant<value_int=-1>() y = SequenceAt(l, m)""",
    "map": """l = SplitToSequence<axis=0>(x) k = SequenceMap(l, a) <body = b (float[1,3] p,
        float[4,3] q) => (float r) { r = MatMul(p, qt) qt0 = Identity(q) }>
        y = ConcatFromSequence<axis=0>(k)""".replace(
        "r = MatMul(p, qt) qt0 = Identity(q)", "t = Transpose(q) r = MatMul(p, t)"
    ),
    "optional": """o = Optional(a) h = OptionalHasElement(o) v = OptionalGetElement(o)
        f = Cast<to=1>(h) y = Add(v, f)""",
}


@pytest.mark.parametrize("nodes", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences(nodes: str) -> None:
    model = model_of(f"g (float[4,3] x, float[4,3] a, int64 i) => (float y) {{ {nodes} }}")
    compare(model, ROWS, -ROWS, integer(1), rtol=1e-6)
