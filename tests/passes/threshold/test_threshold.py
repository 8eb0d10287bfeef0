from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.runtime.feeds import Feeds
from passes.threshold import Threshold

TEXT = Path(__file__).resolve().parents[3] / "fixtures" / "text"
Array = np.ndarray[Any, np.dtype[Any]]


def dense(*arrays: Array, op: str = "MatMul") -> ir.Model:
    """Chain layers; the shapes need not fit each other, nothing is run."""
    value = source = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    nodes, initializers = [], []
    for index, array in enumerate(arrays):
        tensor = ir.tensor(array, name=f"w{index}")
        weight = ir.Value(
            name=tensor.name,
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
        )
        initializers.append(weight)
        nodes.append(ir.Node("", op, [value, weight], name=f"layer{index}"))
        value = nodes[-1].outputs[0]
        value.name = f"y{index}"
    graph = ir.Graph(
        [source], [value], nodes=nodes, initializers=initializers, opset_imports={"": 21}
    )
    return ir.Model(graph, ir_version=10)


def run(
    model: ir.Model, context: Context | None = None, **parameters: Any
) -> tuple[list[Rewrite], dict[str, str]]:
    """Apply a pass; return its rewrites and its declines."""
    rewrites, declined = [], {}
    for one in Threshold(**parameters).rewrites(model, context or Context()):
        if isinstance(one, Rewrite):
            one.apply()
            rewrites.append(one)
        else:
            assert isinstance(one, Declined)
            declined[one.at] = one.why
    return rewrites, declined


def contents(model: ir.Model) -> list[Array]:
    values = model.graph.initializers.values()
    return [value.const_value.numpy() for value in values if value.const_value is not None]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_global_magnitude_is_a_sort_of_everything() -> None:
    before = [normal(7, 9), np.round(normal(5, 6, seed=1), 1), normal(3, 4, 2, 2, seed=2)]
    model = dense(*before)
    rewrites, _ = run(model, sparsity=0.37, score="magnitude")
    together = np.concatenate([array.ravel() for array in before])
    order = np.argsort(np.abs(together), kind="stable")
    together[order[: round(0.37 * together.size)]] = 0
    after = np.concatenate([array.ravel() for array in contents(model)])
    np.testing.assert_array_equal(after, together)
    assert not np.signbit(after[order[: round(0.37 * together.size)]]).any()
    assert [rewrite.at for rewrite in rewrites] == ["w0", "w1", "w2"]
    zeroed = np.count_nonzero(contents(model)[0] == 0)
    assert f"-> {zeroed} of 63 zeroed (magnitude, global)" in rewrites[0].why
    assert rewrites[0].details["elements"] == 63
    assert rewrites[0].details["sparsity"] == zeroed / 63


@pytest.mark.parametrize(
    "score", ["magnitude", "layer_normalized", "channel_normalized", "lamp", "balanced_lamp", None]
)
@pytest.mark.parametrize("scope", ["global", "layer", "channel"])
def test_every_score_zeroes_exactly_what_was_asked(score: Any, scope: Any) -> None:
    model = dense(normal(16, 8), 100 * normal(8, 24, seed=1), np.ones((8, 8), np.float32))
    run(model, sparsity=0.25, score=score, scope=scope)
    counts = [int(np.count_nonzero(array == 0)) for array in contents(model)]
    assert sum(counts) == (128 + 192 + 64) // 4
    if scope != "global":
        assert counts == [32, 48, 16]
    if scope == "channel":
        assert {int(n) for n in (contents(model)[0] == 0).sum(axis=0)} == {4}


def test_scores_by_their_formulas() -> None:
    weight = normal(6, 5)
    magnitudes = np.abs(weight.astype(np.float64))
    channel = np.sqrt((magnitudes**2).sum(axis=0))
    squares = magnitudes**2 / np.sqrt((magnitudes**2).mean(axis=0))
    tails = np.array([[squares[squares >= s].sum() for s in row] for row in squares])
    expected = {
        "layer_normalized": magnitudes / np.linalg.norm(magnitudes),
        "channel_normalized": magnitudes / channel,
        "balanced_lamp": squares / tails,
    }
    for score, values in expected.items():
        model = dense(weight)
        run(model, sparsity=0.4, score=score)
        gone = np.sort(np.argsort(values.ravel())[:12])
        np.testing.assert_array_equal(np.flatnonzero(contents(model)[0] == 0), gone)


def test_folded_scales_do_not_decide_the_default() -> None:
    # The same network twice: a layer's channels scaled up, the next one's inputs scaled down.
    first, second = normal(32, 16), normal(16, 8, seed=1)
    scale = np.exp(2 * normal(16, seed=2))
    plain, scaled = dense(first, second), dense(first * scale, second / scale[:, None])
    kept = {}
    for score in ("magnitude", None):
        for name, model in (("plain", plain.clone()), ("scaled", scaled.clone())):
            run(model, sparsity=0.5, score=score)
            kept[score, name] = contents(model)[0] != 0
    agreement = {
        score: np.mean(kept[score, "plain"] == kept[score, "scaled"])
        for score in ("magnitude", None)
    }
    assert agreement[None] > agreement["magnitude"]


def test_zeros_count_and_nothing_to_do_yields_nothing() -> None:
    weight = normal(10, 10)
    weight.ravel()[::2] = 0
    model = dense(weight)
    assert run(model, sparsity=0.5) == ([], {})
    assert run(model, sparsity=0.0) == ([], {})
    assert run(model, value=0.0) == ([], {})
    run(model, sparsity=0.75)
    assert np.count_nonzero(contents(model)[0] == 0) == 75
    run(model, sparsity=1.0)
    assert not contents(model)[0].any()
    assert run(model, sparsity=1.0) == ([], {})


def test_a_value_at_the_threshold_stays() -> None:
    weight = np.array([[0.1, -0.1], [0.099, -0.2]], np.float32)
    model = dense(weight)
    run(model, value=0.1)
    np.testing.assert_array_equal(contents(model)[0], np.float32([[0.1, -0.1], [0, -0.2]]))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_standard_deviations(scope: Any) -> None:
    arrays = [normal(20, 20) + 3, 10 * normal(20, 20, seed=1)]
    model = dense(*arrays)
    run(model, std=0.7, scope=scope)
    together = np.std(np.concatenate(arrays).astype(np.float64))
    for before, after in zip(arrays, contents(model), strict=True):
        deviation = together if scope == "global" else np.std(before.astype(np.float64))
        np.testing.assert_array_equal(after, np.where(np.abs(before) < 0.7 * deviation, 0, before))


def test_two_of_four_along_the_input_channels() -> None:
    matrix, kernel = normal(10, 4), normal(3, 6, 2, 2)
    model = dense(matrix)
    run(model, pattern="2:4")
    zeros = (contents(model)[0] == 0).astype(int)
    assert (zeros[:4].sum(axis=0) == 2).all()
    assert (zeros[4:8].sum(axis=0) == 2).all()
    assert (zeros[8:].sum(axis=0) == 0).all()
    model = dense(kernel, op="Conv")
    run(model, pattern="2:4")
    zeros = (contents(model)[0] == 0).astype(int)
    assert (zeros[:, :4].sum(axis=1) == 2).all()
    assert (zeros[:, 4:].sum(axis=1) == 0).all()
    depthwise = dense(normal(8, 1, 3, 3), op="Conv")
    assert run(depthwise, pattern="2:4") == ([], {})


def test_blocks_stay_or_go_as_one() -> None:
    kernel = normal(5, 3, 2, 2)
    model = dense(kernel, op="Conv")
    run(model, sparsity=0.4, block=(1, 4), score="magnitude")
    norms = np.sqrt((kernel**2).mean(axis=(2, 3)))
    gone = np.sort(np.argsort(norms.ravel())[:6])
    after = contents(model)[0].reshape(15, 4)
    np.testing.assert_array_equal(np.flatnonzero((after == 0).all(axis=1)), gone)
    assert (after[np.setdiff1d(np.arange(15), gone)] != 0).all()
    model = dense(normal(7, 5))  # (inputs, outputs): blocks of 2 outputs by 3 inputs, cut at edges
    run(model, sparsity=0.5, block=(2, 3))
    zeros = contents(model)[0] == 0
    blocks = [zeros[i : i + 3, o : o + 2] for o in range(0, 5, 2) for i in range(0, 7, 3)]
    assert all(block.all() or not block.any() for block in blocks)
    assert sum(bool(block.all()) for block in blocks) == round(0.5 * 9)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float16,
        np.float32,
        np.float64,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float4_e2m1fn,
    ],
)
def test_element_types(dtype: Any) -> None:
    weight = normal(40, 30).astype(dtype)
    model = dense(weight)
    run(model, sparsity=0.5, score="magnitude")
    after = contents(model)[0]
    assert after.dtype == weight.dtype
    expected = weight.ravel().copy()
    order = np.argsort(np.abs(expected.astype(np.float64)), kind="stable")
    expected[order[:600]] = 0
    np.testing.assert_array_equal(after.ravel().astype(np.float64), expected.astype(np.float64))


def test_a_type_without_a_zero_is_declined() -> None:
    model = dense(np.abs(normal(4, 4)).astype(ml_dtypes.float8_e8m0fnu))
    assert run(model, value=1.0) == ([], {"w0": "FLOAT8E8M0 has no zero"})


def test_float64_thresholds_are_compared_in_float64() -> None:
    model = dense(np.array([[1.0], [1.0 + 1e-12]]))
    run(model, value=1.0 + 1e-12)
    np.testing.assert_array_equal(contents(model)[0], [[0], [1.0 + 1e-12]])


@pytest.mark.parametrize(
    "parameters", [{"sparsity": 0.5}, {"value": 0.1}, {"pattern": "2:4"}, {"std": 1.0}]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named(parameters: dict[str, Any], bad: float) -> None:
    weight = normal(8, 8)
    weight[3, 3] = bad
    with pytest.raises(GraphoptError, match="weight 'w1' holds NaN or infinity"):
        run(dense(normal(8, 8), weight), **parameters)


def test_extreme_norms_keep_scores_finite() -> None:
    tiny, huge = normal(8, 8) * np.float32(1e-42), normal(8, 8, seed=1) * np.float32(1e37)
    model = dense(tiny, huge, np.zeros((8, 8), np.float32))
    run(model, sparsity=0.5, score="channel_normalized")
    assert sum(int(np.count_nonzero(array == 0)) for array in contents(model)) >= 96
    assert all(np.isfinite(array).all() for array in contents(model))


def read(name: str) -> ir.Model:
    return ir.from_onnx_text((TEXT / f"{name}.onnxtxt").read_text())


def test_quantized_weights_go_to_their_zero_point() -> None:
    model = read("qdq")
    weight = model.graph.initializers["w_quantized"]
    zero = model.graph.initializers["w_zero"]
    zero.const_value = ir.tensor(np.array([4, 0], np.int8), name="w_zero")
    before = np.asarray(weight.const_value).astype(int)
    real = np.abs((before - [4, 0]) * np.float32([0.01, 0.02]))
    run(model, value=0.3)
    expected = np.where(real < 0.3, [4, 0], before)
    np.testing.assert_array_equal(np.asarray(weight.const_value), expected)


def test_constants_shared_weights_bodies_and_functions() -> None:
    model = read("constant_weights")
    rewrites, _ = run(model, sparsity=0.5)
    assert [rewrite.at for rewrite in rewrites] == ["w"]
    again = ir.from_proto(ir.to_proto(model))
    (constant,) = (node for node in again.graph if node.outputs[0].name == "w")
    assert np.count_nonzero(constant.attributes["value"].as_tensor().numpy() == 0) == 3
    _, declined = run(read("shared_weights"), sparsity=0.5)
    assert declined == {"w": "shared by a Gather as embedding"}
    rewrites, _ = run(read("shared_weights"), sparsity=0.5, embeddings=True)
    assert sorted(rewrite.at for rewrite in rewrites) == ["twin", "w"]
    rewrites, _ = run(read("nested_if"), value=1e9)
    assert [rewrite.at for rewrite in rewrites][-1].endswith("then_branch/v")
    rewrites, _ = run(read("functions"), sparsity=0.5)
    assert [rewrite.at for rewrite in rewrites] == ["w"]


def test_biases_and_normalization_only_when_asked() -> None:
    model = read("folding")
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    rewrites, _ = run(model, value=1e9)
    assert [rewrite.at for rewrite in rewrites] == ["w"]
    rewrites, _ = run(model, value=1e9, biases=True, normalization=True)
    assert rewrites
    for name, value in model.graph.initializers.items():
        changed = not np.array_equal(value.const_value.numpy(), before[name])
        assert changed == (name in {"w", *(rewrite.at for rewrite in rewrites)})


def test_tensors_are_computed_when_read_and_the_source_stays(tmp_path: Path) -> None:
    weight = normal(64, 64)
    save(dense(weight), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    run(model, sparsity=0.5)
    replaced = model.graph.initializers["w0"].const_value
    assert isinstance(replaced, ir.LazyTensor)
    assert not replaced.cache
    save(model, tmp_path / "m.onnx", external_data=True)
    after = contents(load(tmp_path / "m.onnx"))[0]
    assert np.count_nonzero(after == 0) == 2048
    np.testing.assert_array_equal(after[after != 0], weight[after != 0])


def test_the_same_bytes_every_time() -> None:
    arrays = [np.round(normal(30, 30, seed=seed), 1) for seed in range(3)]
    first, second = dense(*arrays), dense(*arrays)
    run(first, sparsity=0.5)
    run(second, sparsity=0.5)
    for one, other in zip(contents(first), contents(second), strict=True):
        assert one.tobytes() == other.tobytes()


def wanda_model(op: str, weight: Array, channels: int, rank: int) -> ir.Model:
    shape = ", ".join(["N", str(channels), *["4"] * (rank - 2)])
    sizes = ", ".join(str(size) for size in weight.shape)
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g (float[{shape}] x, float[{sizes}] w) => (y) {{ h = Relu (x) y = {op} (h, w) }}"
    )
    value = model.graph.inputs.pop(1)
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return model


@pytest.mark.parametrize("op", ["MatMul", "Gemm <transB = 1>", "Conv", "Conv <group = 2>"])
def test_wanda_weighs_inputs_within_each_output(op: str) -> None:
    generator = np.random.default_rng(0)
    if op.startswith("Conv"):
        weight = normal(4, 6 // (2 if "group" in op else 1), 3, 3)
        samples = generator.standard_normal((20, 6, 4, 4)).astype(np.float32)
    else:
        weight = normal(6, 4) if op == "MatMul" else normal(4, 6)
        samples = generator.standard_normal((20, 6)).astype(np.float32)
    samples *= np.float32([1, 10, 0.1, 5, 2, 0.5]).reshape(1, 6, *[1] * (samples.ndim - 2))
    model = wanda_model(op, weight, 6, samples.ndim)
    run(model, Context(feeds=Feeds({"x": samples})), sparsity=0.5, score="wanda")
    active = np.maximum(samples, 0).astype(np.float64)
    norms = np.sqrt((np.moveaxis(active, 1, 0).reshape(6, -1) ** 2).sum(axis=1))
    after = contents(model)[0]
    rows, seen = (after.T, weight.T) if op == "MatMul" else (after, weight)
    for output, (row, before) in enumerate(zip(rows, seen, strict=True)):
        mine = norms[3 * (output // 2) :][:3] if "group" in op else norms
        scores = np.abs(before) * mine.reshape(-1, *[1] * (before.ndim - 1))
        gone = np.sort(np.argsort(scores.ravel())[: round(0.5 * scores.size)])
        np.testing.assert_array_equal(np.flatnonzero(row.ravel() == 0), gone)


def test_wanda_needs_data() -> None:
    model = wanda_model("MatMul", normal(6, 4), 6, 2)
    with pytest.raises(GraphoptError, match="needs data; give calibration samples with --data"):
        run(model, sparsity=0.5, score="wanda")


def test_wanda_watches_inputs_inside_of_bodies() -> None:
    model = read("loop")
    x = np.array([[3, 2, 1], [0.5, -1, 1]], np.float32)
    before = contents(model)[2]
    _, declined = run(model, Context(feeds=Feeds({"x": x})), sparsity=0.34, score="wanda")
    assert not declined
    states = [x]
    for _ in range(3):
        states.append(np.tanh(states[-1] @ before))
    norms = np.sqrt(np.square(np.concatenate(states), dtype=np.float64).sum(axis=0))
    scores = np.abs(before) * norms[:, None]
    expected = before.copy()
    for column in range(3):
        expected[np.argsort(scores[:, column], kind="stable")[:1], column] = 0
    np.testing.assert_array_equal(contents(model)[2], expected)


def test_wanda_declines_what_no_sample_reaches() -> None:
    model = read("nested_if")
    feeds = {"x": normal(5, 4), "outer": np.array(False), "inner": np.array(False)}
    _, declined = run(model, Context(feeds=Feeds(feeds)), sparsity=0.5, score="wanda")
    (reason,) = {why for at, why in declined.items() if at.endswith("/v")}
    assert reason == "its input cannot be watched: no sample reaches it"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "exactly one of value, sparsity, std, pattern, not none"),
        ({"value": 1.0, "sparsity": 0.5}, "not value and sparsity"),
        ({"sparsity": 1.5}, "sparsity must be from 0 to 1, not 1.5"),
        ({"sparsity": float("nan")}, "sparsity must be"),
        ({"value": -1.0}, "value must be a finite number from 0, not -1.0"),
        ({"std": float("inf")}, "std must be"),
        ({"pattern": "4:2"}, "pattern must be N:M with 1 <= N < M, not '4:2'"),
        ({"pattern": "2"}, "pattern must be"),
        ({"sparsity": 0.5, "block": (0, 1)}, "block must be two sizes"),
        ({"sparsity": 0.5, "scope": "world"}, "scope must be one of global, layer, channel"),
        ({"sparsity": 0.5, "score": "size"}, "score must be one of magnitude"),
        ({"value": 0.5, "scope": "layer"}, "scope does not go with value"),
        ({"value": 0.5, "score": "lamp"}, "score 'lamp' only goes with sparsity"),
        ({"std": 0.5, "scope": "channel"}, "scope must be global or layer with std"),
        ({"std": 0.5, "score": "wanda"}, "score must be magnitude with std"),
        ({"pattern": "2:4", "block": (1, 4)}, "block does not go with pattern"),
        ({"sparsity": 0.5, "scope": "channel", "block": (1, 4)}, "block does not go with scope"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        Threshold(**parameters)


def test_a_glob_that_lets_no_weight_in_is_told() -> None:
    rewrites, declined = run(dense(np.ones((2, 2), np.float32)), sparsity=0.5, include="conv*")
    assert rewrites == []
    assert "no weight" in declined["conv*"]
