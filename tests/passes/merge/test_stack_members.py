from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import session
from members_parts import CNN, COLUMNS, DEEP, MLP, SIDE_BY_SIDE
from members_text import Part, assert_same, check, check_stays, mean, model_of, ops, stack

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Rewrite
from passes.merge.gain import Candidate
from passes.merge.stack_members import StackMembers, _Search
from passes.merge.stack_members.groups import Style

MATMUL = Part(
    "$h = MatMul(x, $w)\n $i = Add($h, $b)\n $r = Tanh($i)\n$z = MatMul($r, $u)\n $y = Add($z, $c)",
    {"w": (6, 8), "b": (8,), "u": (8, 3), "c": (3,)},
)
CNN_END = ("Conv", "GlobalAveragePool", "Reshape", "Gemm")
IMAGE = {"x": "float[N,3,8,8] x"}


@pytest.mark.parametrize("count", [3, 5, 45])
def test_mlps_and_their_mean_become_two_products(count: int) -> None:
    check([MLP] * count, SIDE_BY_SIDE)


@pytest.mark.parametrize("count", [3, 5, 45])
def test_products_in_the_middle_become_a_conv(count: int) -> None:
    check([DEEP] * count, COLUMNS)


def test_large_products_become_a_conv() -> None:
    large = Part(MLP.body, {"w": (4096, 6), "b": (4096,), "u": (4096, 3), "c": (3,)})
    after, _ = stack(model_of([large] * 3))
    assert ops(after) == ["Transpose", "Unsqueeze", "Conv", "Relu", "Conv", "Reshape", "Transpose"]


def test_what_lanes_make_of_one_product_each() -> None:
    member = Part("$z = Gemm(x, $w, $b)\n $y = Softmax<axis = -1>($z)", {"w": (6, 3), "b": (3,)})
    check([member] * 3, ["Gemm", "Reshape", "Softmax", "ReduceMean"])


@pytest.mark.parametrize(
    "product",
    [
        "$h = Gemm<alpha = 0.5, beta = 2.0>(x, $w, $b)",
        "$h = Gemm<beta = 3.0>(x, $w, shared)",
        "$h = Gemm<transB = 1>(x, $w8, one)",
        "$h = Gemm(x, $w)",
        "$p = MatMul(x, $w)\n $h = Add(shared, $p)",
    ],
)
def test_products_over_a_shared_matrix(product: str) -> None:
    member = Part(
        product + "\n $r = Relu($h)\n $y = Gemm($r, $u)",
        {"w": (6, 8), "w8": (8, 6), "b": (8,), "u": (8, 3)},
    )
    shared = {"shared": np.arange(8, dtype=np.float32), "one": np.float32(0.5)}
    after = check([member] * 3, shared=shared)
    assert not {"Conv", "Transpose"} & set(ops(after))


def test_a_member_that_overflows_leaves_the_others_as_they_are() -> None:
    y = ", ".join(f"float[A,B] m{k}_y" for k in range(3))
    for member in (MLP, DEEP):
        before = model_of([member] * 3, "q = Neg(x)", y=y)
        for tensor in before.graph.initializer:
            if tensor.name == "m1_b":
                array = np.full(tensor.dims, np.inf, np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        after, _ = stack(before)
        assert len(ops(after)) < len(ops(before))
        assert_same(before, after)


def test_matmuls_with_adds() -> None:
    check([MATMUL] * 3, ["MatMul", "Add", "Tanh", "Gemm"])


def test_cnns() -> None:
    check(
        [CNN] * 3,
        [*("Conv", "BatchNormalization", "Relu", "MaxPool"), *CNN_END],
        **IMAGE,
    )


@pytest.mark.parametrize("opset", [11, 12, 13, 15, 17, 18, 20, 22])
@pytest.mark.parametrize("member", [MLP, MATMUL, CNN], ids=["mlp", "matmul", "cnn"])
def test_opsets(member: Part, opset: int) -> None:
    x = IMAGE["x"] if member is CNN else "float[N,6] x"
    soft = Part(member.body + "\n $soft = Softmax<axis = 1>($y)", member.weights)
    join = "y = Mean(m0_soft, m1_soft, m2_soft)\n top = ReduceMax<keepdims = 0>(y)"
    check([soft] * 3, None, join, x=x, opset=opset)


def test_outputs_of_members_that_are_wanted_one_by_one() -> None:
    y = ", ".join(f"float[A,B] m{k}_y" for k in range(5))
    after = check([MLP] * 5, None, "q = Neg(x)", y=y)
    assert ops(after).count("Split") == 1


def test_members_with_several_outputs() -> None:
    heads = Part(
        "$h = Gemm(x, $w, $b)\n $r = Relu($h)\n $y = Gemm($r, $u)\n $z = Gemm($r, $c)",
        {"w": (6, 8), "b": (8,), "u": (8, 3), "c": (8, 3)},
    )
    join = f"{mean(['m0_y', 'm1_y', 'm2_y'])}\n z = Max(m0_z, m1_z, m2_z)"
    after = check([heads] * 3, None, join, y="float[A,B] y, float[C,D] z")
    assert ops(after).count("Conv") == 3


def test_residual_connections_and_equal_branches_in_each_member() -> None:
    member = Part(
        "$h = Gemm(x, $w, $b)\n $r = Relu($h)\n $i = Gemm($r, $u)\n $a = Add($i, $h)\n"
        "$p = Gemm($a, $p1)\n $q = Gemm($a, $p2)\n $s = Sigmoid($q)\n $m = Mul($p, $s)\n"
        "$y = Add($m, $a)",
        {"w": (6, 8), "b": (8,), "u": (8, 8), "p1": (8, 8), "p2": (8, 8)},
    )
    after = check([member] * 4)
    assert len(ops(after)) < 18


def test_members_that_differ_at_the_end_are_stacked_at_the_start() -> None:
    other = Part(MLP.body.replace("$y = Gemm", "$y0 = Gemm") + "\n $y = Softmax($y0)", MLP.weights)
    check([MLP, MLP, MLP, other, other, other, other])


def test_members_that_differ_in_one_attribute_are_stacked_up_to_there() -> None:
    body = (
        "$h = Gemm(x, $w, $b)\n $r = LeakyRelu<alpha = 0.1>($h)\n $i = Gemm($r, $u)\n"
        "$e = Elu<alpha = ALPHA>($i)\n $y = Gemm($e, $c)"
    )
    weights = {"w": (6, 8), "b": (8,), "u": (8, 8), "c": (8, 3)}
    members = [Part(body.replace("ALPHA", alpha), weights) for alpha in ("0.5", "0.5", "1.0")]
    check([*members, *members])


def test_groups_of_different_architectures() -> None:
    after = check([MLP, MATMUL, MLP, MATMUL, MLP])
    assert ops(after).count("Gemm") == 3


def test_some_groups_may_be_left_out() -> None:
    before = model_of([MLP, MATMUL] * 3)
    for skipped in (0, 1):
        model = ir.from_proto(before)
        steps = StackMembers(measure=False).rewrites(model, Context())
        count = 0
        for step in steps:
            if isinstance(step, Rewrite):
                if count != skipped:
                    step.apply()
                count += 1
        after = ir.to_proto(model)
        onnx.checker.check_model(after, full_check=True)
        assert count == 2
        assert_same(before, after)


def test_one_member_twice_is_no_second_lane() -> None:
    before = model_of([MLP] * 6)
    for tensor in before.graph.initializer:
        if tensor.name.startswith("m1_"):
            twin = next(t for t in before.graph.initializer if t.name == "m0" + tensor.name[2:])
            tensor.CopyFrom(twin)
            tensor.name = "m1" + tensor.name[2:]
    after, _ = stack(before)
    assert_same(before, after)
    first = next(node for node in after.graph.node if node.op_type == "Gemm")
    held = {tensor.name: tensor.dims for tensor in after.graph.initializer}
    assert list(held[first.input[2]]) == [40]


def test_one_member_alone_stays() -> None:
    assert check_stays([MLP]) == []


def test_at_most_so_many_lanes() -> None:
    after = check([MLP] * 31, parameters={"lanes": 8})
    assert ops(after).count("Gemm") == 8


def test_members_over_inputs_of_their_own() -> None:
    members = [Part(MLP.body.replace("(x,", f"(x{k},"), MLP.weights) for k in range(3)]
    before = model_of(members, x="float[4,6] x0, float[4,6] x1, float[4,6] x2")
    after, _ = stack(before)
    assert_same(before, after, (1,))


def test_a_shared_backbone_stays_one() -> None:
    backbone = "t = Relu(x)\n"
    members = [
        Part((backbone if k == 0 else "") + MLP.body.replace("(x,", "(t,"), MLP.weights)
        for k in range(3)
    ]
    check(members, ["Relu", *SIDE_BY_SIDE])


def test_parameters_are_checked() -> None:
    with pytest.raises(GraphoptError, match="lanes"):
        StackMembers(lanes=1)
    with pytest.raises(GraphoptError, match="measure"):
        StackMembers(measure=1)  # type: ignore[arg-type]  # what a user may write


def test_the_clock_decides() -> None:
    model = ir.from_proto(model_of([MLP] * 30))
    said = []
    for step in StackMembers().rewrites(model, Context()):
        said.append(step)
        if isinstance(step, Rewrite):
            step.apply()
    assert all("batch 1" in step.why for step in said)


def test_copies_that_were_tried_are_let_go() -> None:
    search = _Search(Style(columns=True, most=None), None)
    model = ir.from_proto(model_of([MLP] * 4))
    (ends,) = [found.at for found in search.find(model) if isinstance(found, Candidate)]
    kept = weakref.ref(model.graph)
    del model
    gc.collect()
    assert kept() is None
    assert ends in search.wider_than({ends}, (2,))


def test_same_bytes_again() -> None:
    before = model_of([MLP, CNN_FREE] * 3)
    first, second = (stack(before)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


CNN_FREE = Part("$h = MatMul(x, $w)\n $y = Softmax($h)", {"w": (6, 3)})


def test_slopes_that_differ_over_one_value_stay_apart() -> None:
    check_stays([Part("$y = PRelu(x, $s)", {"s": (6,)})] * 3)
    own = Part("$h = MatMul(x, $w)\n $y = PRelu($h, $s)", {"w": (6, 4), "s": (4,)})
    after, _ = stack(model_of([own] * 3))
    assert ops(after).count("PRelu") == 1


def test_products_behind_what_may_select_no_row_take_no_rows() -> None:
    selecting = """axis = Constant<value_ints = [1]>()
        zero = Constant<value_float = 0.0>()
        total = ReduceSum<keepdims = 0>(all, axis)
        keep = Greater(total, zero)
        x = Compress<axis = 0>(all, keep)
        """
    members = [Part(selecting + DEEP.body, DEEP.weights), DEEP, DEEP]
    before = model_of(members, x="float[N,6] all")
    after, _ = stack(before)
    assert len(ops(after)) < len(ops(before))
    assert "Conv" not in ops(after)
    array = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    for given in (array, -np.abs(array)):
        expected, found = (session(proto).run(None, {"all": given})[0] for proto in (before, after))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape == (0, 3)
