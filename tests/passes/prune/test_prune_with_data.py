"""What pruning does with data: means for biases, and scores by activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from before_after import session
from prune_runs import drawn, shapes

import graphopt
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.runtime.feeds import Feeds
from passes.prune import Prune


def test_a_constant_channel_goes_without_a_trace() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w1, b1)
            r = Relu(a)
            c = Conv<group=2>(r, w2, b2)
            s = Sigmoid(c)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            g = MatMul(f, w3)
            h = Add(g, b3)
            t = Tanh(h)
            y = Gemm<transB=1>(t, w4, b4)
        }""",
        w1=(8, 3, 1, 1),
        b1=(8,),
        w2=(6, 4, 1, 1),
        b2=(6,),
        w3=(6, 10),
        b3=(10,),
        w4=(4, 10),
        b4=(4,),
    )
    for name, axis, where in (("w1", 0, [1, 6]), ("w2", 0, [0, 5]), ("w3", 1, [3])):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[where] = 0
        value.const_value = ir.tensor(array, name=name)
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)}
    context = Context(feeds=Feeds(feeds))
    for score in ("magnitude", "activation"):
        pruned = graphopt.run(model, [Prune(value=1e-4, score=score)], context).model
        found = shapes(pruned)
        assert found["w1"][0] == 6
        assert found["w3"] == (4, 9)
        want, got = (session(ir.to_proto(m)).run(None, feeds)[0] for m in (model, pruned))
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    "padding",
    [
        "pads=[2,0]",
        "pads=[1,1], strides=[2], dilations=[2]",
        'auto_pad="SAME_UPPER", strides=[2]',
        'auto_pad="SAME_LOWER"',
        'auto_pad="VALID"',
    ],
)
def test_padding_counts_in_the_mean_that_a_constant_channel_adds(padding: str) -> None:
    model = drawn(
        f"""
        main (float[N,3,10] x) => (float[N,4,1] y) {{
            a = Conv(x, w1, b1)
            s = Sigmoid(a)
            c = Conv<{padding}>(s, w2, b2)
            y = GlobalAveragePool(c)
        }}""",
        w1=(8, 3, 1),
        b1=(8,),
        w2=(4, 8, 4),
        b2=(4,),
    )
    value = model.graph.initializers["w1"]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[[1, 6]] = 0
    value.const_value = ir.tensor(array, name="w1")
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 3, 10)).astype(np.float32)}
    pruned = graphopt.run(model, [Prune(value=1e-4)], Context(feeds=Feeds(feeds))).model
    assert shapes(pruned)["w2"] == (4, 6, 4)
    want, got = (session(ir.to_proto(m)).run(None, feeds)[0] for m in (model, pruned))
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(("members", "compensated"), [(1, 1), (3, 0)])
def test_a_bias_is_shifted_for_one_matrix_only(members: int, compensated: int) -> None:
    model = drawn(
        """
        main (float[B,N,6] x) => (float[B,N,4] y) {
            a = MatMul(x, w1)
            b = Sigmoid(a)
            c = MatMul(b, w2)
            y = Add(c, b2)
        }""",
        w1=(6, 8),
        w2=(members, 8, 4),
        b2=(4,),
    )
    feeds = Feeds({"x": np.ones((members, 5, 6), np.float32)})
    rewrites = [
        one
        for one in Prune(ratio=0.5).rewrites(model, Context(feeds=feeds))
        if isinstance(one, Rewrite)
    ]
    assert [rewrite.details["compensated"] for rewrite in rewrites] == [compensated]


@pytest.mark.parametrize(("bias", "left"), [("", [1, 3]), (", b3", [0, 3])])
def test_a_mean_counts_where_no_bias_takes_it(bias: str, left: list[int]) -> None:
    # Channel 1 varies little about a large mean, channel 0 a bit more about none.
    model = drawn(
        f"""
        main (float[N,4] x) => (float[N,1] y) <float[4] offset = {{0, 9, 0, 0}}> {{
            a = Gemm(x, w1, offset)
            y = Gemm(a, w2{bias})
        }}""",
        w1=(4, 4),
        w2=(4, 1),
        **({"b3": (1,)} if bias else {}),
    )
    for name, numbers in (("w1", np.diag([1, 0.5, 0.1, 4])), ("w2", np.ones((4, 1)))):
        tensor = ir.tensor(numbers.astype(np.float32), name=name)
        model.graph.initializers[name].const_value = tensor
    feeds = {"x": np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)}
    pruned = graphopt.run(
        model, [Prune(ratio=0.5, score="activation")], Context(feeds=Feeds(feeds))
    ).model
    weight = pruned.graph.initializers["w1"].const_value
    assert weight is not None
    assert np.flatnonzero(weight.numpy().any(axis=1)).tolist() == left
