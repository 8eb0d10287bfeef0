"""What prune follows beyond plain networks: bodies, functions, integers, ensembles, real models."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import session
from prune_runs import check, drawn, run, shapes

import graphopt
from graphopt.pipeline.contract import Context, Effect
from graphopt.runtime.feeds import Feeds
from passes.cleanup import Cleanup
from passes.merge.stack_members import StackMembers
from passes.prune import Prune
from passes.quantize.quantize import Quantize

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
SHARED = Path(__file__).resolve().parents[4] / "shared"


def test_a_body_loses_what_it_keeps_to_itself() -> None:
    model = drawn(
        """
        main (float[N,6] x, bool c) => (float[N,4] y) {
            h = MatMul(x, w0)
            y = If(c) <
                then_branch = yes () => (float[N,4] p) {
                    a = MatMul(h, w1)
                    r = Relu(a)
                    p = MatMul(r, w2)
                },
                else_branch = no () => (float[N,4] q) {
                    q = MatMul(h, w3)
                }
            >
        }""",
        w0=(6, 8),
        w1=(8, 10),
        w2=(10, 4),
        w3=(8, 4),
    )
    for chosen in (True, False):
        feeds = {"x": np.ones((3, 6), np.float32), "c": np.array(chosen)}
        pruned, rewrites, declined = check(model, feeds, ratio=0.5, scope="layer")
        assert len(rewrites) == 2
        found = shapes(pruned)
        assert found["w0"] == (6, 4)
        assert found["w1"] == (4, 5)
        assert found["w2"] == (5, 4)
        assert found["w3"] == (4, 4)
        assert any("p is an output of the body" in why for why in declined.values())


def test_what_goes_round_a_loop_stays() -> None:
    model = drawn(
        """
        main (float[N,6] x, int64 n) => (float[N,6] y)
        <bool go = {1}> {
            h = MatMul(x, w0)
            z = Loop(n, go, h) <
                body = one (int64 i, bool c, float[N,8] s) => (bool d, float[N,8] t) {
                    d = Identity(c)
                    a = MatMul(s, w1)
                    r = Relu(a)
                    t = MatMul(r, w2)
                }
            >
            y = MatMul(z, w3)
        }""",
        w0=(6, 8),
        w1=(8, 10),
        w2=(10, 8),
        w3=(8, 6),
    )
    feeds = {"x": np.ones((3, 6), np.float32), "n": np.array(2)}
    _, rewrites, declined = check(model, feeds, ratio=0.5)
    assert rewrites == []
    assert "Loop" in declined["h"]
    # What a body declares of its inputs proves nothing.
    assert any("unknown rank" in why for at, why in declined.items() if at.endswith("body/a"))


def test_functions_are_declined() -> None:
    model = ir.from_onnx_text((FIXTURES / "text" / "functions.onnxtxt").read_text())
    before = ir.to_proto(model)
    _, declined, _ = run(model, ratio=0.5)
    assert ir.to_proto(model) == before
    assert any("inline it first" in why for why in declined.values())


def test_quantized_weights_lose_their_scales_too() -> None:
    model = graphopt.load(FIXTURES / "digits_cnn.onnx")
    context = Context(feeds=graphopt.open_feeds(str(FIXTURES / "digits_calibration.npz")))
    quantized = graphopt.run(model, [Cleanup(), Quantize(mode="static")], context).model
    pruned, rewrites, _ = check(quantized, ratio=0.3, scope="layer")
    assert len(rewrites) == 3
    assert sum(map(np.prod, shapes(pruned).values())) < 0.75 * sum(
        map(np.prod, shapes(quantized).values())
    )


def test_normalizations_over_channels_are_in_the_way() -> None:
    model = drawn(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        main (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            b = GroupNormalization<num_groups=4>(a, s, t)
            c = Conv(b, w2)
            d = Softmax<axis=1>(c)
            e = Conv(d, w3)
            f = LRN<size=3>(e)
            y = Conv(f, w4)
        }""",
        w1=(8, 3, 1, 1),
        s=(8,),
        t=(8,),
        w2=(6, 8, 1, 1),
        w3=(6, 6, 1, 1),
        w4=(4, 6, 1, 1),
    )
    pruned, rewrites, declined = check(model, ratio=0.5, scope="layer")
    assert len(rewrites) == 1
    assert shapes(pruned)["w1"][0] == 4
    assert [n.attributes.get_int("num_groups", 0) for n in pruned.graph][1] == 2
    assert declined["c"] == "its channels stay: Softmax d mixes them"
    assert declined["e"] == "its channels stay: LRN f mixes them"


@pytest.mark.parametrize(
    "layer",
    [
        "c = Conv<group=3>(a, w2)",
        "c = Conv(a, flat)",
        "c = Gemm(a, w2)",
        "c = MatMul(a, one)",
        "c = GroupNormalization<num_groups=3>(a, s, s)",
        "c = Split<axis=7>(a)",
        "c = Transpose<perm=[0, 0]>(a)",
        "c = ConvTranspose<group=5>(a, w2)",
        "c = LSTM<hidden_size=5>(a, flat, flat)",
        "c = Concat<axis=9>(a, a)",
        "c = BatchNormalization(a, s, s, flat, one)",
    ],
)
def test_models_that_make_no_sense_keep_all(layer: str) -> None:
    model = drawn(
        f"""
        <ir_version: 10, opset_import: ["" : 21]>
        main (float[N,3,6,6] x) => (float y) {{
            a = Conv(x, w1)
            {layer}
            y = Conv(c, w2)
        }}""",
        **{
            name: shape
            for name, shape in {
                "w1": (8, 3, 1, 1),
                "w2": (8, 8, 1, 1),
                "flat": (8,),
                "one": (),
                "s": (8,),
            }.items()
            if name in re.split(r"\W+", f"w1 w2 {layer}")
        },
    )
    before = ir.to_proto(model)
    assert run(model, ratio=0.5)[0] == []
    assert ir.to_proto(model) == before


def test_a_recurrence_keeps_its_state() -> None:
    model = drawn(
        """
        main (float[T,N,6] x) => (float[T,1,N,5] y) {
            a = MatMul(x, w1)
            b = Tanh(a)
            y = LSTM<hidden_size=5>(b, w2, w3)
        }""",
        w1=(6, 8),
        w2=(1, 20, 8),
        w3=(1, 20, 5),
    )
    pruned, rewrites, _ = check(model, ratio=0.5)
    assert len(rewrites) == 1
    assert shapes(pruned)["w2"] == (1, 20, 4)


@pytest.mark.parametrize("score", ["magnitude", "batchnorm"])
def test_batch_normalization_may_decide(score: str) -> None:
    model = drawn(
        """
        main (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            b = BatchNormalization(a, g, s, m, v)
            r = Relu(b)
            c = Conv(r, w2)
            y = Conv(c, w3)
        }""",
        w1=(8, 3, 1, 1),
        **dict.fromkeys("gsmv", (8,)),
        w2=(6, 8, 1, 1),
        w3=(4, 6, 1, 1),
    )
    gammas = np.array([3, -0.1, 2, 0.2, -1, 5, 0.3, 4], np.float32)
    model.graph.initializers["g"].const_value = ir.tensor(gammas, name="g")
    _, rewrites, _ = check(model, ratio=3 / 8, scope="layer", score=score)
    assert len(rewrites) == (1 if score == "batchnorm" else 2)
    _, _, gone = run(model.clone(), ratio=3 / 8, scope="layer", score=score)
    if score == "batchnorm":
        assert gone["g", 0] == {1, 3, 6}


def test_members_of_a_fused_ensemble_lose_as_many_each() -> None:
    members = [graphopt.load(FIXTURES / "digits_cnn.onnx") for _ in range(3)]
    for seed, member in enumerate(members):
        rng = np.random.default_rng(seed)
        for value in member.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and len(tensor.shape) > 1:
                noise = 1 + 0.3 * rng.standard_normal(tensor.numpy().shape)
                value.const_value = ir.tensor((tensor.numpy() * noise).astype(np.float32))
                value.const_value.name = value.name
    fused = graphopt.ensemble("mean(a, b, c)", dict(zip("abc", members, strict=True)))
    fused = graphopt.run(fused, [Cleanup(), StackMembers(measure=False)]).model
    assert any(node.attributes.get_int("group", 1) == 3 for node in fused.graph)
    pruned, rewrites, _ = check(fused, ratio=0.3, scope="layer")
    assert len(rewrites) == 3
    assert any(node.attributes.get_int("group", 1) == 3 for node in pruned.graph)


def test_a_batch_of_products_loses_equal_indices_of_every_member() -> None:
    model = drawn(
        """
        main (float[N,6] x) => (float[N,4] y) {
            a = MatMul(x, w1)
            b = Add(a, b1)
            c = Relu(b)
            d = MatMul(c, w2)
            y = ReduceMean<axes=[0], keepdims=0>(d)
        }""",
        w1=(3, 6, 8),
        b1=(3, 1, 8),
        w2=(3, 8, 4),
    )
    pruned, rewrites, _ = check(model, ratio=0.5)
    assert len(rewrites) == 1
    found = shapes(pruned)
    assert found == {"w1": (3, 6, 4), "b1": (3, 1, 4), "w2": (3, 4, 4)}


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "separable"])
def test_shipped_models(name: str) -> None:
    model = graphopt.run(graphopt.load(FIXTURES / f"digits_{name}.onnx"), [Cleanup()]).model
    pruned, _, declined = check(model, ratio=0.25, multiple_of=4)
    assert sum(map(np.prod, shapes(pruned).values())) < 0.85 * sum(
        map(np.prod, shapes(model).values())
    )
    assert len(declined) == 1
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)


def test_every_rewrite_leaves_a_valid_model_and_runs_are_alike() -> None:
    model = graphopt.run(graphopt.load(FIXTURES / "digits_resnet.onnx"), [Cleanup()]).model
    whole = graphopt.run(model.clone(), [Prune(ratio=0.3)])
    again = graphopt.run(model.clone(), [Prune(ratio=0.3)])
    assert ir.to_proto(whole.model) == ir.to_proto(again.model)
    for limit in range(4):
        some = graphopt.run(model.clone(), [Prune(ratio=0.3)], limit=limit).model
        proto = ir.to_proto(some)
        onnx.checker.check_model(proto, full_check=True)
        image = np.zeros((2, 1, 8, 8), np.float32)
        assert session(proto).run(None, {proto.graph.input[0].name: image})[0].shape == (2, 10)
    assert Prune.effect is Effect.LOSSY


def test_resnet_20_keeps_most_of_its_accuracy() -> None:
    file, data = SHARED / "models" / "cifar10_resnet20.onnx", SHARED / "data" / "cifar10_test2k.npz"
    if not file.exists() or not data.exists():
        pytest.skip("needs ../shared/models/cifar10_resnet20.onnx and ../shared/data")
    with np.load(data) as held:
        images, labels = held["images"][:628], held["labels"][:628]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    feed = (((images / 255) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    context = Context(feeds=Feeds({"image": feed[:128]}))
    model = graphopt.load(file)
    right = {}
    for score, compensate in (("magnitude", False), ("magnitude", True), ("activation", True)):
        steps = [Prune(ratio=0.15, score=score, compensate=compensate)]
        pruned = graphopt.run(model, steps, context).model
        assert sum(map(np.prod, shapes(pruned).values())) < 0.8 * 269_000
        logits = session(ir.to_proto(pruned)).run(None, {"image": feed[128:]})[0]
        right[score, compensate] = float((logits.argmax(axis=1) == labels[128:]).mean())
    print(right)
    assert right["magnitude", False] < right["magnitude", True] < right["activation", True]
    assert right["activation", True] > 0.55
