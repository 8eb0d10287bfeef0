from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_models import (
    declared,
    grid,
    normal,
    on_reference,
    on_runtime,
    operators,
    run_pass,
    with_weights,
)
from weight_layers import LAYERS, layer, optimized_operators, with_nearest

from graphopt.rewrite.weights import Weight, weights
from passes.quantize.weights import QuantizeWeights

STORED = [
    (form, name, dtype)
    for form in ("folded", "dequantize", "matmulnbits")
    for name, (shape, *_) in LAYERS.items()
    for dtype in ("int8", "uint8", "int4", "uint4", "int16")
    if form != "matmulnbits" or (len(shape) == 2 and dtype != "int16")
]
"""MatMulNBits takes 4 and 8 bits of a matrix."""


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize(("form", "name", "dtype"), STORED)
def test_readers_get_the_nearest_number_on_the_grid(
    form: str, name: str, dtype: str, granularity: str, symmetric: bool
) -> None:
    model, weight, data = layer(name)
    work = QuantizeWeights(
        dtype=dtype,
        granularity=granularity,
        symmetric=symmetric,
        form=form,
        min_size=0,
        accuracy_level=1,
    )
    after, step = run_pass(model, work)
    if not step.rewrites:
        # Blocks of one neighbour, or of few with zero points: nothing would get smaller.
        assert "would take the place" in step.declined[0].why
        return
    input_axis, output_axis = LAYERS[name][3:]
    axis, block = {
        "tensor": (None, 0),
        "channel": (output_axis, 0),
        "block": (input_axis, 32) if weight.shape[input_axis] > 32 else (output_axis, 0),
    }[granularity]
    near = grid(weight, dtype, axis, block, symmetric=symmetric).nearest(weight)
    expected = on_runtime(with_nearest(model, near), {"x": data})[0]
    found = on_runtime(after, {"x": data})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    if form == "folded":
        optimized = on_runtime(after, {"x": data}, "all")[0]
        np.testing.assert_allclose(optimized, expected, rtol=1e-4, atol=2e-5)
    assert "w" not in after.graph.initializers


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint4"])
@pytest.mark.parametrize("form", ["folded", "dequantize"])
@pytest.mark.parametrize("granularity", ["channel", "block"])
def test_the_reference_evaluator_agrees(granularity: str, form: str, dtype: str) -> None:
    weight, data = normal(48, 20), normal(2, 48, seed=1)
    text = f"g (float[N, 48] x) => (y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    model = with_weights(text, opset=21, w=weight)
    work = QuantizeWeights(dtype=dtype, granularity=granularity, form=form, symmetric=False)
    after, _ = run_pass(model, work)
    np.testing.assert_allclose(
        on_reference(after, {"x": data})[0], on_runtime(after, {"x": data})[0], rtol=1e-4, atol=1e-5
    )


@settings(max_examples=25)
@given(
    summed=st.integers(1, 300),
    columns=st.integers(1, 9),
    block_size=st.sampled_from([16, 32, 64, 128, 256, 48]),
    dtype=st.sampled_from(["int8", "uint4"]),
    form=st.sampled_from(["folded", "dequantize"]),
    transposed=st.booleans(),
    symmetric=st.booleans(),
)
def test_blocks_of_any_size_on_any_shape(
    summed: int,
    columns: int,
    block_size: int,
    dtype: str,
    form: str,
    transposed: bool,
    symmetric: bool,
) -> None:
    shape = (columns, summed) if transposed else (summed, columns)
    weight = normal(*shape, seed=summed)
    nodes = "y = Gemm<transB = 1>(x, w)" if transposed else "y = Gemm(x, w)"
    text = f"g (float[N, {summed}] x) => (y) <{declared('w', weight)}> {{ {nodes} }}"
    model = with_weights(text, w=weight)
    work = QuantizeWeights(
        dtype=dtype,
        granularity="block",
        block_size=block_size,
        form=form,
        symmetric=symmetric,
        min_size=0,
    )
    after, step = run_pass(model, work)
    if not step.rewrites:
        return
    axis, block = (int(transposed), block_size) if summed > block_size else (int(not transposed), 0)
    near = grid(weight, dtype, axis, block, symmetric=symmetric).nearest(weight)
    data = normal(3, summed, seed=2)
    expected = data @ (near.T if transposed else near)
    np.testing.assert_allclose(on_runtime(after, {"x": data})[0], expected, rtol=1e-3, atol=1e-4)
    (stored,) = weights(after)
    assert isinstance(stored, Weight)
    assert stored.quantization is not None


def test_folded_storage_in_onnx_text() -> None:
    weight = normal(32, 16)
    text = (
        f"g (float[N, 32] x) => (float[N, 16] y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    )
    after, step = run_pass(with_weights(text, w=weight), QuantizeWeights(symmetric=False))
    assert operators(after) == ["Cast", "Cast", "Sub", "Mul", "MatMul"]
    assert after.opset_imports[""] == 17
    held = {name: value.dtype for name, value in after.graph.initializers.items()}
    assert held == {
        "w_quantized": ir.DataType.INT8,
        "w_zero_point": ir.DataType.INT8,
        "w_scale": ir.DataType.FLOAT,
    }
    assert step.rewrites[0].details["form"] == "folded"


def test_a_large_matrix_is_dequantized_where_onnx_runtime_fuses_it() -> None:
    weight = normal(768, 768)
    text = f"g (float[N, 768] x) => (y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    model = with_weights(text, w=weight)
    after, _ = run_pass(model, QuantizeWeights())
    assert operators(after) == ["DequantizeLinear", "MatMul"]
    optimized = optimized_operators(after)
    assert optimized == ["MatMulNBits"]


@pytest.mark.parametrize("name", ["MatMul", "Gemm", "Gemm transB", "Transpose"])
@pytest.mark.parametrize(
    ("dtype", "granularity", "block_size"),
    [
        ("int8", "channel", 32),
        ("int8", "tensor", 32),
        ("uint4", "block", 16),
        ("int4", "block", 32),
    ],
)
def test_what_is_dequantized_for_products_is_fused(
    name: str, dtype: str, granularity: str, block_size: int
) -> None:
    model, _, _ = layer(name)
    work = QuantizeWeights(
        dtype=dtype, granularity=granularity, block_size=block_size, form="dequantize", min_size=0
    )
    after, _ = run_pass(model, work)
    assert optimized_operators(after) == ["MatMulNBits"]


@pytest.mark.parametrize("name", ["MatMul", "Conv", "ConvTranspose", "Transpose"])
@pytest.mark.parametrize("dtype", ["int8", "uint4"])
def test_folded_storage_is_gone_when_a_session_starts(name: str, dtype: str) -> None:
    model, _, _ = layer(name)
    before = optimized_operators(model)
    after, _ = run_pass(
        model, QuantizeWeights(dtype=dtype, form="folded", symmetric=False, block_size=16)
    )
    assert optimized_operators(after) == before


def test_float16_weights_are_folded_too() -> None:
    weight = normal(48, 20, dtype=np.float16) * np.float16(1e-3)
    text = f"""g (float16[N, 48] x) => (float16[N, 20] y) <{declared("w", weight, "float16")}>
    {{ y = MatMul(x, w) }}"""
    model = with_weights(text, w=weight)
    after, _ = run_pass(model, QuantizeWeights())
    assert optimized_operators(after) == optimized_operators(model)
    near = grid(weight, "int8", 1, 0, symmetric=True).nearest(weight).astype(np.float16)
    assert np.abs(near - weight).max() < 0.01 * np.abs(weight).max()
    data = normal(2, 48, dtype=np.float16)
    expected = on_runtime(with_nearest(model, near), {"x": data})[0]
    # ONNX Runtime takes Casts to float16 and back away: the products are of float32.
    found = on_runtime(after, {"x": data})[0]
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=1e-5)
