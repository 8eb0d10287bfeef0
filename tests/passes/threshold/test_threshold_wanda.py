from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from threshold_runs import Array, contents, normal, read, run

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds


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
