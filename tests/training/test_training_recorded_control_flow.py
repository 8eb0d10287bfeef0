"""torch.export records the branches and loops that data decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from against_onnx_runtime import expected, model_of, same

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

DYNAMIC = torch.export.Dim.DYNAMIC

BRANCHES = """g (float[A,3] x, bool c, float[3] w) => (float[A,3] y, int64[2] n) {
    s = Shape(x) w2 = Mul(w, w)
    y, n = If(c) <
        then_branch = a () => (float[A,3] p, int64[2] k) {
            q = Expand(w2, s) p = Add(q, x) k = Identity(s) },
        else_branch = b () => (float[A,3] p, int64[2] k) {
            k = Constant<value = int64[2] {7, 8}>() p = Identity(x) }
    > }"""

NESTED = """g (float[A,3] x, bool c, float[3] w) => (float[A,3] y) {
    y = If(c) <
        then_branch = a () => (float[A,3] p) {
            m = ReduceMax<keepdims=0>(x) z = Constant<value = float {0.0}>() d = Less(m, z)
            p = If(d) <
                then_branch = aa () => (float[A,3] pp) { pp = Mul(x, w) },
                else_branch = bb () => (float[A,3] pp) { pp = Add(x, w) }
            > },
        else_branch = b () => (float[A,3] p) { p = Neg(x) }
    > }"""

WHILE = """g (float[A,3] x, float most) => (float[A,3] y, int64 n) {
    c = Constant<value = bool {1}>() z = Constant<value_int=0>()
    y, n = Loop("", c, x, z) <body = b (int64 i, bool c1, float[A,3] v, int64 k)
        => (bool c2, float[A,3] v2, int64 k2) {
        v2 = Add(v, v) one = Constant<value_int=1>() k2 = Add(k, one)
        a = Abs(v2) m = ReduceMax<keepdims=0>(a) c2 = Less(m, most) }> }"""

COUNTED = """g (float[A,3] x, int64 m) => (float[A,3] y, float[M,A,3] z) {
    c = Constant<value = bool {1}>()
    y, z = Loop(m, c, x) <body = b (int64 i, bool c1, float[A,3] v)
        => (bool c2, float[A,3] v2, float[A,3] o) {
        f = Cast<to=1>(i) v2 = Add(v, f) o = Mul(v2, x) c2 = Identity(c1) }> }"""

COUNTED_BY_A_SIZE = """g (float[A,3] x) => (float[3] y, float[A,3] z) {
    c = Constant<value = bool {1}>() s = Shape(x) zero = Constant<value_int=0>()
    m = Gather(s, zero) first = Gather(x, zero)
    y, z = Loop(m, c, first) <body = b (int64 i, bool c1, float[3] v)
        => (bool c2, float[3] v2, float[3] o) {
        r = Gather(x, i) v2 = Add(v, r) o = Mul(v2, r) c2 = Identity(c1) }> }"""

ENDED_BEFORE = """g (float[A,3] x, float most) => (float z) {
    c = Constant<value = bool {1}>() one = Constant<value = float {1.0}>()
    m = Constant<value_int=9>()
    y, z = Loop(m, c, one) <body = b (int64 i, bool c1, float v) => (bool c2, float v2, float o) {
        v2 = Add(v, v) s = ReduceSum<keepdims=0>(x) o = Mul(s, v) c2 = Less(v2, most) }> }"""

UNROLLED = """g (float[A,3] x) => (float y) {
    c = Constant<value = bool {1}>() m = Constant<value_int=3>()
    y = Loop(m, c, x) <body = b (int64 i, bool c1, float[B,3] v) => (bool c2, float[D,3] v2) {
        v2 = Concat<axis=0>(v, x) c2 = Identity(c1) }> }"""

SCAN = """g (float[A,4,3] x, float[A,3] h) => (float[A,3] y, float[A,4,3] z) {
    y, z = Scan<num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
        body = b (float[A,3] v, float[A,3] u) => (float[A,3] v2, float[A,3] o) {
        v2 = Add(v, u) o = Mul(v2, v2) }>(h, x) }"""

FOUND_ANY = """g (float[A,3] x, float[3] w) => (float y) {
    i = NonZero(x) n = Shape<start=1, end=2>(i) z = Constant<value_ints=[0]>() c = Equal(n, z)
    y = If(c) <
        then_branch = a () => (float p) { p = Neg(w) },
        else_branch = b () => (float p) { p = Mul(w, w) }
    > }"""

W = np.array([1, -2, 3], dtype=np.float32)
CASES: dict[str, tuple[str, list[list[Any]]]] = {
    "if": (BRANCHES, [[True, W], [False, W]]),
    "nested if": (NESTED, [[True, W], [False, W]]),
    "if of a size that data tells": (FOUND_ANY, [[W]]),
    "while": (WHILE, [[np.float32(50)], [np.float32(0)]]),
    "for": (COUNTED, [[4], [1]]),
    "for each row": (COUNTED_BY_A_SIZE, [[]]),
    "for with an early end": (ENDED_BEFORE, [[np.float32(5)], [np.float32(1e6)]]),
    "unrolled": (UNROLLED, [[]]),
}


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


def recorded(text: str, *arrays: Any) -> torch.export.ExportedProgram:
    inputs = tuple(torch.from_numpy(np.asarray(each)) for each in arrays)
    dynamic = tuple({0: DYNAMIC} if np.ndim(each) > 1 else None for each in arrays)
    module = OnnxModule(model_of(text)).eval()
    return torch.export.export(module, inputs, dynamic_shapes={"inputs": dynamic})


@pytest.mark.parametrize("lowered", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_recorded_runs_as_onnx_runtime_does(name: str, *, lowered: bool) -> None:
    text, runs = CASES[name]
    program = recorded(text, rows(4), *runs[0])
    if lowered:
        program = program.run_decompositions()
    model = model_of(text)
    for others in runs:
        for count in (2, 6):
            arrays = [rows(count), *(np.asarray(each) for each in others)]
            with torch.no_grad():
                found = program.module()(*[torch.from_numpy(each) for each in arrays])
            listed = found if isinstance(found, tuple) else (found,)
            same([each.numpy() for each in listed], expected(model, *arrays), 1e-6, 1e-6)


def test_scan_of_a_fixed_length_is_unrolled() -> None:
    program = recorded(SCAN, np.ones((2, 4, 3), np.float32), rows(2))
    x = np.random.default_rng(1).standard_normal((5, 4, 3)).astype(np.float32)
    found = program.module()(torch.from_numpy(x), torch.from_numpy(rows(5)))
    wanted = expected(model_of(SCAN), x, rows(5))
    same([each.numpy() for each in found], wanted, 1e-6, 1e-6)


def test_a_branch_that_data_chooses_is_recorded_with_both_sides() -> None:
    program = recorded(BRANCHES, rows(4), True, W)
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.higher_order.cond in called


REFUSED = {
    "a state that grows": (
        UNROLLED.replace("x) => (float y) {", "x, int64 m) => (float y) {").replace(
            "m = Constant<value_int=3>()", ""
        ),
        [np.array(3)],
        "changes its shape",
    ),
    "outputs without a bound": (
        ENDED_BEFORE.replace("Loop(m,", 'Loop("",'),
        [np.float32(5)],
        "without a bound",
    ),
    "lists to choose from": (
        """g (float[A,3] x, bool c) => (float y) {
        l = If(c) <then_branch = a () => (seq(float) p) { p = SequenceConstruct(x) },
            else_branch = b () => (seq(float) p) { p = SequenceConstruct(x, x) }>
        y = ConcatFromSequence<axis=0>(l) }""",
        [True],
        "chooses between lists",
    ),
    "a branch that does not fit": (
        """g (float[A,3] x, bool c) => (float y) {
        y = If(c) <then_branch = a () => (float p) {
                w = Constant<value = float[4,1] {1, 2, 3, 4}>() p = MatMul(x, w) },
            else_branch = b () => (float p) { p = Identity(x) }> }""",
        [True],
        "a cannot be recorded",
    ),
    "a scan of a dynamic length": (
        SCAN.replace("scan_input_axes=[1], scan_output_axes=[1]", "scan_input_axes=[0]")
        .replace("float[A,4,3] x", "float[A,3] x")
        .replace("float[A,3] h", "float[3] h"),
        [W],
        "dynamic size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused(name: str) -> None:
    text, others, why = REFUSED[name]
    with pytest.raises(GraphoptError, match=why) as refused:
        recorded(text, rows(4), *others)
    assert refused.value.fix


def test_a_branch_follows_a_size_that_data_tells() -> None:
    program = recorded(FOUND_ANY, rows(4), W)
    for x in (rows(4), np.zeros((2, 3), np.float32)):
        found = program.module()(torch.from_numpy(x), torch.from_numpy(W))
        same([found.numpy()], expected(model_of(FOUND_ANY), x, W), 0, 0)
