from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from integer_models import (
    declared,
    grid,
    normal,
    on_runtime,
    run_pass,
    with_weights,
)
from weight_layers import layer, with_nearest

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.pipeline.contract import Context
from passes.quantize.weights import QuantizeWeights


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("g (float[N, 32] x, float[32, 32] w) => (y) <{w}> {{ y = MatMul(x, w) }}", "override"),
        (
            "g (float[N, 32] x) => (y, float[32, 32] w) <{w}> {{ y = MatMul(x, w) }}",
            "output of the graph",
        ),
        ("g (float[N, 32] x) => (y) <{w}> {{ a = MatMul(x, w) y = Add(a, w) }}", "shared by"),
        (
            'g (float[N, 32] x) => (y) <{w}> {{ y = Einsum<equation = "ab,bc->ac">(x, w) }}',
            "Einsum",
        ),
    ],
)
def test_what_is_declined(text: str, why: str) -> None:
    weight = normal(32, 32)
    model = with_weights(text.format(w=declared("w", weight)), w=weight)
    _, step = run_pass(model, QuantizeWeights())
    assert not step.rewrites
    assert any(why in declined.why for declined in step.declined)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_declined(spoilt: float) -> None:
    model, weight, _ = layer("MatMul")
    weight = weight.copy()
    weight[3, 4] = spoilt
    _, step = run_pass(with_nearest(model, weight), QuantizeWeights())
    assert [declined.why for declined in step.declined] == ["it holds NaN or infinity"]


def test_small_weights_and_quantized_ones_are_left() -> None:
    model, _, _ = layer("MatMul")
    _, step = run_pass(model, QuantizeWeights(min_size=1 << 20))
    assert "min_size" in step.declined[0].why
    once, _ = run_pass(model, QuantizeWeights())
    _, step = run_pass(once, QuantizeWeights())
    assert [declined.why for declined in step.declined] == ["it is quantized already (INT8)"]


def test_layers_are_chosen_by_name_operator_and_weight() -> None:
    w, v = normal(32, 32), normal(32, 32, seed=1)
    text = f"""g (float[N, 32] x) => (y) <{declared("w", w)}, {declared("v", v)}>
    {{ [first] a = MatMul(x, w) t = Transpose(v) [second] y = Gemm(a, t) }}"""
    model = with_weights(text, w=w, v=v)

    def touched(**wish: object) -> list[str]:
        return [rewrite.at for rewrite in run_pass(model, QuantizeWeights(**wish))[1].rewrites]

    assert touched() == ["w", "v"]
    assert touched(include="first") == ["w"]
    assert touched(include="v") == ["v"]
    assert touched(exclude="second") == ["w"]
    assert touched(op_types="Gemm") == ["v"]
    assert touched(include="nothing") == []


def test_a_weight_is_left_where_one_of_its_readers_is() -> None:
    weight = normal(32, 32)
    text = f"""g (float[N, 32] x) => (float[N, 32] y) <{declared("w", weight)}>
    {{ [one] a = MatMul(x, w) [two] y = MatMul(a, w) }}"""
    _, step = run_pass(with_weights(text, w=weight), QuantizeWeights(include="one"))
    assert [declined.why for declined in step.declined] == ["shared by two, which is left out"]


def test_a_grid_that_a_pass_left_is_taken() -> None:
    model, weight, _ = layer("MatMul")
    coarse = grid(weight * 2, "int8", 1, 0, symmetric=True)
    model = with_nearest(model, coarse.nearest(weight))
    model.graph.initializers["w"].meta["graphopt.grid"] = coarse
    after, _ = run_pass(model, QuantizeWeights())
    stored = after.graph.initializers["w_quantized"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), coarse.quantize(weight))
    _, step = run_pass(model, QuantizeWeights(dtype="uint8", symmetric=False))
    assert len(step.rewrites) == 1


def test_opset_is_raised_where_a_form_needs_it() -> None:
    weight = normal(64, 16)
    text = f"g (float[N, 64] x) => (y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    for form, dtype, expected in (
        ("folded", "int8", 9),
        ("dequantize", "int8", 13),
        ("folded", "int4", 21),
    ):
        model = with_weights(text, opset=9, w=weight)
        after, _ = run_pass(model, QuantizeWeights(form=form, dtype=dtype))
        assert after.opset_imports[""] == expected
        data = {"x": normal(2, 64, seed=1)}
        before, found = on_runtime(model, data)[0], on_runtime(after, data)[0]
        assert np.abs(before - found).max() < 0.4 * np.abs(before).max()


def test_the_file_shrinks_to_a_quarter_and_an_eighth(tmp_path: Path) -> None:
    weight = normal(256, 256)
    text = f"g (float[N, 256] x) => (y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    model = with_weights(text, w=weight)

    def size(changed: ir.Model) -> int:
        save(changed, tmp_path / "model.onnx")
        return (tmp_path / "model.onnx").stat().st_size

    before = size(model)
    assert size(run_pass(model, QuantizeWeights())[0]) < 0.26 * before
    four = QuantizeWeights(dtype="int4", block_size=128)
    assert size(run_pass(model, four)[0]) < 0.15 * before


def test_memory_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    count, rows = 6, 2048
    names = [f"w{n}" for n in range(count)]
    arrays = {name: normal(rows, rows, seed=n) for n, name in enumerate(names)}
    declared_weights = ", ".join(f"float[{rows}, {rows}] {name} = {{}}" for name in names)
    chain = " ".join(f"x{n + 1} = MatMul(x{n}, w{n})" for n in range(count))
    text = f"g (float[N, {rows}] x0) => (x{count}) <{declared_weights}> {{ {chain} }}"
    save(with_weights(text, **arrays), tmp_path / "float.onnx")
    model = load(tmp_path / "float.onnx")
    tracemalloc.start()
    after, step = run_pass_unchecked(model)
    save(after, tmp_path / "small.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(step) == count
    assert peak < 2 * rows * rows * 4


def run_pass_unchecked(model: ir.Model) -> tuple[ir.Model, list[object]]:
    from graphopt.pipeline import manager

    result = manager.run(model, [QuantizeWeights()], Context())
    return result.model, list(result.steps[0].rewrites)


@pytest.mark.parametrize(
    "wish",
    [
        {"dtype": "int3"},
        {"granularity": "row"},
        {"form": "gguf"},
        {"block_size": 8},
        {"min_size": -1},
        {"accuracy_level": 5},
        {"form": "matmulnbits", "dtype": "int16"},
        {"form": "matmulnbits", "block_size": 48},
    ],
)
def test_parameters_out_of_range(wish: dict[str, object]) -> None:
    with pytest.raises(GraphoptError, match="quantize_weights"):
        QuantizeWeights(**wish)


def test_the_float_model_is_kept_for_passes_behind() -> None:
    model, weight, _ = layer("MatMul")
    context = Context()
    run_pass(model, QuantizeWeights(), context)
    reference = context.cache["quantize.reference"]
    assert isinstance(reference, ir.Model)
    held = reference.graph.initializers["w"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), weight)
