from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from before_after import model_of, text_of
from prune_runs import check, drawn, run, shapes

from graphopt.errors import GraphoptError
from passes.prune import Prune

CONV = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "b2": (6,), "w3": (5, 6)}


def test_text_before_and_after() -> None:
    before = """
        main (float[N,2] x) => (float[N,2] y)
        <float[2,4] a = {5, 0.1, 3, 0.2, 4, 0.1, 2, 0.1}, float[4] c = {1, 2, 3, 4},
         float[4,2] b = {1, 2, 0.1, 0.1, 5, 6, 0.1, 0.1}> {
            h = MatMul(x, a)
            i = Add(h, c)
            j = Relu(i)
            y = MatMul(j, b)
        }"""
    after = """
        main (float[N,2] x) => (float[N,2] y)
        <float[2,2] a = {5, 3, 4, 2}, float[2] c = {1, 3}, float[2,2] b = {1, 2, 5, 6}> {
            h = MatMul(x, a)
            i = Add(h, c)
            j = Relu(i)
            y = MatMul(j, b)
        }"""
    model = model_of(before)
    rewrites, declined, _ = run(model, ratio=0.5)
    assert text_of(model) == text_of(model_of(after))
    assert [rewrite.at for rewrite in rewrites] == ["h"]
    assert rewrites[0].why == "kept 2 of 4 channels of 2 layers (magnitude, global)"
    assert rewrites[0].details == {"channels": 4, "kept": 2, "layers": 2, "compensated": 0}
    assert declined == {"y": "its channels stay: y is an output of the graph"}


def test_convolutions_with_batch_normalization_pool_and_flatten() -> None:
    model = drawn(
        """
        main (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            n = BatchNormalization(a, s, t, m, v)
            r = Relu(n)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            c = Conv<pads=[1,1,1,1]>(p, w2, b2)
            e = HardSwish(c)
            f = Flatten(e)
            y = Gemm<transB=1>(f, g, h)
        }""",
        **{name: CONV[name] for name in ("w1", "b1", "w2", "b2")},
        **dict.fromkeys("stmv", (8,)),
        g=(5, 96),
        h=(5,),
    )
    pruned, rewrites, _ = check(model, ratio=0.5, scope="layer")
    assert len(rewrites) == 2
    found = shapes(pruned)
    assert found["w1"] == (4, 3, 3, 3)
    assert found["w2"] == (3, 4, 3, 3)
    assert found["g"] == (5, 48)
    assert {found[name] for name in "stmv"} == {(4,)}


def test_residual_connections_lose_channels_together() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, w2)
            s = Relu(b)
            c = Conv<pads=[1,1,1,1]>(s, w3)
            d = Add(c, r)
            e = PRelu(d, slope)
            p = GlobalAveragePool(e)
            f = Flatten(p)
            y = Gemm(f, w4)
        }""",
        w1=(8, 3, 3, 3),
        w2=(6, 8, 3, 3),
        w3=(8, 6, 3, 3),
        slope=(8, 1, 1),
        w4=(8, 4),
    )
    pruned, rewrites, _ = check(model, ratio=0.5, scope="layer")
    assert [rewrite.details["layers"] for rewrite in rewrites] == [4, 2]
    found = shapes(pruned)
    assert found["w1"][0] == found["w2"][1] == found["w3"][0] == found["w4"][0] == 4
    assert found["slope"] == (4, 1, 1)
    assert found["w2"][0] == found["w3"][1] == 3


def test_concatenated_channels_keep_their_places() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            b = Conv(x, w2)
            k = Concat<axis=1>(a, b)
            c = Conv(k, w3)
            l = Concat<axis=1>(a, b, c)
            r = Relu(l)
            y = Conv(r, w4)
        }""",
        w1=(5, 3, 1, 1),
        w2=(7, 3, 1, 1),
        w3=(6, 12, 1, 1),
        w4=(4, 18, 1, 1),
    )
    pruned, rewrites, _ = check(model, ratio=0.4, scope="layer")
    assert len(rewrites) == 3
    found = shapes(pruned)
    assert found["w1"][0] == 3
    assert found["w2"][0] == 4
    assert found["w3"][:2] == (4, 7)
    assert found["w4"][1] == 11


def test_a_depthwise_convolution_loses_groups() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            d = Conv<group=6, pads=[1,1,1,1]>(a, w2, b2)
            e = Relu(d)
            z = ConvTranspose<group=12>(e, w3)
            y = Conv(z, w4)
        }""",
        w1=(6, 3, 1, 1),
        w2=(12, 1, 3, 3),
        b2=(12,),
        w3=(12, 2, 1, 1),
        w4=(4, 24, 1, 1),
    )
    pruned, rewrites, _ = check(model, ratio=0.5)
    assert len(rewrites) == 1
    found = shapes(pruned)
    assert found["w1"][0] == 3
    assert found["w2"] == (6, 1, 3, 3)
    assert found["w3"] == (6, 2, 1, 1)
    assert found["w4"] == (4, 12, 1, 1)
    groups = [node.attributes.get_int("group", 1) for node in pruned.graph]
    assert groups == [1, 3, 1, 6, 1]


def test_every_group_of_a_convolution_loses_as_many_of_its_own() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            d = Conv<group=2>(a, w2)
            e = Relu(d)
            z = ConvTranspose<group=2>(e, w3)
            y = Conv(z, w4)
        }""",
        w1=(8, 3, 1, 1),
        w2=(10, 4, 1, 1),
        w3=(10, 6, 1, 1),
        w4=(4, 12, 1, 1),
    )
    pruned, rewrites, _ = check(model, ratio=0.5, scope="layer")
    assert len(rewrites) == 3
    found = shapes(pruned)
    assert found["w1"][0] == 4
    assert found["w2"][1] == 2
    assert found["w2"][0] == found["w3"][0] == 6
    assert found["w3"][1] == 3
    _, _, gone = run(model.clone(), ratio=0.5, scope="layer")
    first, second = ({i % 4 for i in gone["w1", 0] if i // 4 == half} for half in (0, 1))
    assert first != second


def test_shuffled_groups_lose_equal_indices() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <int64[5] there = {0, 2, 4, 6, 6}, int64[4] back = {0, 8, 6, 6}> {
            a = Conv(x, w1)
            d = Conv<group=2>(a, w2)
            r = Reshape(d, there)
            t = Transpose<perm=[0, 2, 1, 3, 4]>(r)
            s = Reshape(t, back)
            e = Conv<group=2>(s, w3)
            y = Conv(e, w4)
        }""",
        w1=(8, 3, 1, 1),
        w2=(8, 4, 1, 1),
        w3=(8, 4, 1, 1),
        w4=(4, 8, 1, 1),
    )
    pruned, _, _ = check(model, ratio=0.5, scope="layer")
    found = shapes(pruned)
    assert found["w1"][0] == 4
    assert found["w4"][1] == 4


def test_a_transformer_loses_hidden_units_and_heads() -> None:
    model = drawn(
        """
        main (float[N,T,12] x) => (float[N,T,12] y)
        <int64[4] heads = {0, 0, 4, 3}, int64[3] flat = {0, 0, 12}, float c = {0.5}> {
            q = MatMul(x, wq)
            q0 = Add(q, bq)
            q1 = Reshape(q0, heads)
            q2 = Transpose<perm=[0, 2, 1, 3]>(q1)
            k = MatMul(x, wk)
            k1 = Reshape(k, heads)
            k2 = Transpose<perm=[0, 2, 3, 1]>(k1)
            v = MatMul(x, wv)
            v1 = Reshape(v, heads)
            v2 = Transpose<perm=[0, 2, 1, 3]>(v1)
            p = MatMul(q2, k2)
            p1 = Mul(p, c)
            p2 = Softmax<axis=-1>(p1)
            o = MatMul(p2, v2)
            o1 = Transpose<perm=[0, 2, 1, 3]>(o)
            o2 = Reshape(o1, flat)
            o3 = MatMul(o2, wo)
            r = Add(x, o3)
            n = LayerNormalization<axis=-1>(r, s, t)
            h = MatMul(n, w1)
            h1 = Add(h, b1)
            h2 = Erf(h1)
            h3 = Mul(h1, h2)
            h4 = MatMul(h3, w2)
            y = Add(r, h4)
        }""",
        **dict.fromkeys(("wq", "wk", "wv", "wo"), (12, 12)),
        bq=(12,),
        s=(12,),
        t=(12,),
        w1=(12, 20),
        b1=(20,),
        w2=(20, 12),
    )
    pruned, rewrites, declined = check(model, ratio=0.5, scope="layer")
    assert [rewrite.details["channels"] for rewrite in rewrites] == [4, 20]
    found = shapes(pruned)
    assert {found[name] for name in ("wq", "wk", "wv")} == {(12, 6)}
    assert found["wo"] == (6, 12)
    assert found["w1"] == (12, 10)
    assert "x is an input of the graph" in declined["o3"]


def test_splits_slices_and_pads_follow() -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <int64[1] one = {1}, int64[1] low = {-5}, int64[1] high = {2147483647},
         int64[2] sizes = {3, 5}, int64[8] pads = {0, 2, 0, 0, 0, 1, 0, 0}> {
            a = Conv(x, w1)
            s, t = Split<axis=1>(a, sizes)
            b = Slice(a, low, high, one)
            m = Mul(b, t)
            k = Concat<axis=1>(m, s)
            z = Pad(k, pads)
            u = Conv(x, w2)
            q = Add(u, z)
            y = Conv(q, w3)
        }""",
        w1=(8, 3, 1, 1),
        w2=(11, 3, 1, 1),
        w3=(4, 11, 1, 1),
    )
    for ratio in (0.2, 0.4, 0.6):
        pruned, rewrites, _ = check(model, ratio=ratio)
        assert rewrites
        found = shapes(pruned)
        assert found["w2"][0] == found["w3"][1] < 11


def test_shared_vectors_part_and_shared_weights_do_not() -> None:
    model = drawn(
        """
        main (float[N,6] x) => (float[N,3] y) {
            a = MatMul(x, w1)
            b = Add(a, shared)
            c = MatMul(b, w2)
            d = Add(c, shared)
            e = MatMul(d, twice)
            f = MatMul(e, twice)
            y = MatMul(f, w3)
        }""",
        w1=(6, 8),
        w2=(8, 8),
        shared=(8,),
        twice=(8, 8),
        w3=(8, 3),
    )
    pruned, rewrites, _ = check(model, ratio=0.5, scope="layer")
    assert len(rewrites) == 2
    found = shapes(pruned)
    assert found["twice"] == (4, 4)
    assert found["w1"] == (6, 4)
    assert sorted(name for name in found if name.startswith("shared")) == [
        "shared_pruned",
        "shared_pruned_1",
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "give exactly one of ratio, value, not none"),
        ({"ratio": 0.1, "value": 1.0}, "not ratio and value"),
        ({"ratio": 1.5}, "ratio must be from 0 to 1, not 1.5"),
        ({"ratio": float("nan")}, "ratio must be from 0 to 1"),
        ({"value": -1.0}, "value must be a finite number from 0"),
        ({"ratio": 0.1, "score": "wanda"}, "score must be one of"),
        ({"ratio": 0.1, "scope": "channel"}, "scope must be one of global, layer"),
        ({"value": 0.1, "scope": "layer"}, "scope does not go with value"),
        ({"ratio": 0.1, "multiple_of": 0}, "multiple_of must be an integer from 1, not 0"),
        ({"ratio": 0.1, "min_channels": True}, "min_channels must be an integer"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        Prune(**parameters)


def mlp(**more: Any) -> ir.Model:
    return drawn(
        """
        main (float[N,6] x) => (float[N,3] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            d = Tanh(c)
            y = MatMul(d, w3)
        }""",
        w1=(6, 16),
        w2=(16, 20),
        w3=(20, 3),
        **more,
    )


def test_bounds_on_what_stays() -> None:
    pruned, _, _ = check(mlp(), ratio=0.4, scope="layer", multiple_of=8)
    assert shapes(pruned)["w2"] == (16, 16)
    pruned, _, _ = check(mlp(), ratio=1.0)
    assert shapes(pruned)["w2"] == (1, 1)
    pruned, _, _ = check(mlp(), ratio=1.0, min_channels=3)
    assert shapes(pruned)["w2"] == (3, 3)
    pruned, rewrites, _ = check(mlp(), value=0.0)
    assert rewrites == []
    pruned, _, _ = check(mlp(), value=0.24)
    assert 1 < shapes(pruned)["w2"][0] < 16


def test_names_choose_layers() -> None:
    for parameters, expected in (
        ({"include": "w1"}, (8, 20)),
        ({"include": ("c",)}, (16, 10)),
        ({"exclude": "w2"}, (8, 20)),
        ({"op_types": "Conv"}, (16, 20)),
        ({"op_types": ("MatMul",)}, (8, 10)),
    ):
        pruned, _, _ = check(mlp(), ratio=0.5, scope="layer", **parameters)
        assert shapes(pruned)["w2"] == expected


def test_channels_that_nothing_writes_or_reads_go_first() -> None:
    model = mlp()
    for name, axis, where in (("w1", 1, [3, 7]), ("w2", 0, [5])):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[where] = 0
        value.const_value = ir.tensor(array, name=name)
    _, _, gone = run(model, ratio=3 / 16, scope="layer", include="w1")
    assert gone["w1", 1] == {3, 5, 7}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    model = mlp()
    value = model.graph.initializers["w2"]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[0, 0] = bad
    value.const_value = ir.tensor(array, name="w2")
    with pytest.raises(GraphoptError, match="weight 'w2' holds NaN or infinity"):
        run(model, ratio=0.5)


def test_the_score_by_activations_needs_data() -> None:
    with pytest.raises(GraphoptError, match="score 'activation' needs data; give calibration"):
        run(mlp(), ratio=0.5, score="activation")
