from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from dynamic_models import (
    Array,
    activation,
    declined,
    noise,
    operators,
    parsed,
    quantize,
    run,
    weight,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.model import to_proto
from graphopt.rewrite.constants import opset


def fused(model: ir.Model, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime is left with."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(
        to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(folder / "optimized.onnx").graph
    return Counter(node.op_type for node in graph.node)


def test_text_before_and_after() -> None:
    model = parsed("m (float[2,3] x) => (float[2,2] y) { y = MatMul(x, w) }", w=noise(3, 2))
    said = quantize(model)
    assert [step.at for step in said] == ["y"]
    assert [node.op_type for node in model.graph] == [
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "Cast",
        "Mul",
        "Mul",
    ]
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "w_quantized": ir.DataType.INT8,
        "w_scale": ir.DataType.FLOAT,
    }
    assert model.graph.outputs[0].name == "y"
    assert opset(model) == 17


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 2, 3, 6), (6,)])
def test_matmul_is_its_numpy_model(shape: tuple[int, ...], granularity: str) -> None:
    x, w = noise(*shape), noise(6, 5, seed=1) * np.array([1, 2, 0.1, 30, 1], np.float32)
    dims, out = ",".join(map(str, shape)), ",".join(map(str, (*shape[:-1], 5)))
    model = parsed(f"m (float[{dims}] x) => (float[{out}] y) {{ y = MatMul(x, w) }}", w=w)
    quantize(model, granularity=granularity)
    expected = activation(x) @ weight(w, 1 if granularity == "channel" else None)
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-4, atol=1e-4)


def test_onnx_runtime_fuses_all_of_it(tmp_path: Path) -> None:
    model = parsed(
        """m (float[N,S,8] x) => (float[N,S,8] y) {
          q0 = MatMul(x, wq)  q = Add(q0, bq)
          k0 = MatMul(x, wk)  k = Add(bk, k0)
          v = MatMul(x, wv)
          s = Add(q, k)
          t = Mul(s, v)
          o = MatMul(t, wo)
          y = Add(o, bo)
        }""",
        **{name: noise(8, 8, seed=i) for i, name in enumerate(("wq", "wk", "wv", "wo"))},
        **{name: noise(8, seed=9 + i) for i, name in enumerate(("bq", "bk", "bo"))},
    )
    quantize(model)
    assert operators(model)["DynamicQuantizeLinear"] == 2
    assert fused(model, tmp_path) == {
        "DynamicQuantizeLinear": 1,
        "MatMulIntegerToFloat": 3,
        "Add": 1,
        "Mul": 1,
        "DynamicQuantizeMatMul": 1,
    }


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", ["", "row", "fed"])
def test_gemm(trans_a: int, trans_b: int, bias: str) -> None:
    x, w, c = noise(4, 6), noise(6, 5, seed=1), noise(5, seed=2)
    fed = ", float[5] c" if bias == "fed" else ""
    model = parsed(
        f"""m (float[{"6,4" if trans_a else "4,6"}] x{fed}) => (float[4,5] y) {{
          y = Gemm<alpha=0.5, beta=-2.0, transA={trans_a}, transB={trans_b}>
            (x, w{", c" if bias else ""}) }}""",
        w=w.T.copy() if trans_b else w,
        **({"c": c} if bias == "row" else {}),
    )
    quantize(model)
    assert not operators(model)["Gemm"]
    feeds = {"x": x.T.copy() if trans_a else x, **({"c": c} if bias == "fed" else {})}
    expected = 0.5 * (activation(x) @ weight(w, 1)) - 2 * (c if bias else 0)
    np.testing.assert_allclose(run(model, **feeds)[0], expected, rtol=1e-4, atol=1e-4)


def test_gemm_fuses_with_its_bias(tmp_path: Path) -> None:
    model = parsed(
        "m (float[N,6] x) => (float[N,5] y) { y = Gemm<transB=1>(x, w, c) }",
        w=noise(5, 6),
        c=noise(5),
    )
    quantize(model)
    assert fused(model, tmp_path) == {"DynamicQuantizeMatMul": 1}


def test_stacked_weights() -> None:
    x, w = noise(3, 4, 6), noise(3, 6, 5, seed=1)
    model = parsed("m (float[3,4,6] x) => (float[3,4,5] y) { y = MatMul(x, w) }", w=w)
    quantize(model)
    expected = activation(x) @ weight(w, 2)
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_unsigned_weights_have_zero_points(granularity: str) -> None:
    x, w = noise(4, 6), np.abs(noise(6, 5, seed=1)) + 0.5
    model = parsed("m (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", w=w)
    quantize(model, weights="uint8", granularity=granularity)
    assert model.graph.initializers["w_quantized"].dtype == ir.DataType.UINT8
    high = w.max(axis=0) if granularity == "channel" else w.max()
    left = np.rint(w / (high / 255)) * (high / 255)
    np.testing.assert_allclose(run(model, x=x)[0], activation(x) @ left, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("weights", "most"), [("int8", 64), ("uint8", 127)])
def test_reduced_range(weights: str, most: int) -> None:
    x, w = noise(4, 6), noise(6, 50, seed=1)
    model = parsed("m (float[4,6] x) => (float[4,50] y) { y = MatMul(x, w) }", w=w)
    quantize(model, weights=weights, reduce_range=True)
    stored = model.graph.initializers["w_quantized"].const_value
    assert stored is not None
    assert 60 <= int(np.abs(stored.numpy().astype(int)).max()) <= most
    # Half the steps: at most a step of error per product.
    step = np.ptp(np.append(w, 0)) / 63
    bound = np.abs(activation(x)).sum(axis=1).max() * step
    np.testing.assert_allclose(run(model, x=x)[0], activation(x) @ w, atol=bound)


def test_zero_range_weights_and_constant_zero_activations() -> None:
    w = noise(6, 5)
    w[:, 2] = 0
    model = parsed("m (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", w=w)
    quantize(model)
    found = run(model, x=noise(4, 6))[0]
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 2], 0)
    np.testing.assert_array_equal(run(model, x=np.zeros((4, 6), np.float32))[0], 0)
    zeros = parsed(
        "m (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", w=np.zeros((6, 5), np.float32)
    )
    quantize(zeros)
    np.testing.assert_array_equal(run(zeros, x=noise(4, 6))[0], 0)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_float_types_get_casts_around(dtype: str) -> None:
    numpy_dtype = np.dtype({"float16": np.float16, "double": np.float64}[dtype])
    x, w = noise(4, 6).astype(numpy_dtype), noise(6, 5, seed=1).astype(numpy_dtype)
    model = parsed(
        f"m ({dtype}[4,6] x) => ({dtype}[4,5] y) {{ a = MatMul(x, w)  y = Add(a, b) }}",
        w=w,
        b=np.ones(5, numpy_dtype),
    )
    quantize(model)
    found = run(model, x=x)[0]
    assert found.dtype == numpy_dtype
    expected = activation(x.astype(np.float32)) @ weight(w.astype(np.float32), 1) + 1
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_convolutions_where_asked(rank: int, weights: str) -> None:
    x, w, b = noise(2, 4, *[6] * (rank - 2)), noise(8, 2, *[3] * (rank - 2), seed=1), noise(8)
    space = ",".join("6" for _ in range(rank - 2))
    pads = ",".join("1" for _ in range(2 * (rank - 2)))
    text = f"""m (float[2,4,{space}] x) => (float[2,8,{space}] y) {{
      y = Conv<group=2, pads=[{pads}]>(x, w, b) }}"""
    model, exact = parsed(text, w=w, b=b), parsed(text, w=weight(w, 0), b=b)
    assert not quantize(parsed(text, w=w, b=b))
    quantize(model, op_types="Conv", weights=weights)
    assert operators(model)["ConvInteger"] == 1
    expected = run(exact, x=activation(x))[0]
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-4, atol=1e-4)


def test_lstm_as_a_contrib_operator() -> None:
    x, w, r, b = noise(7, 2, 6), noise(2, 20, 6, seed=1), noise(2, 20, 5, seed=2), noise(2, 40)
    text = """m (float[7,2,6] x) => (float[7,2,2,5] y, float[2,2,5] h) {
      y, h = LSTM<hidden_size=5, direction="bidirectional">(x, w, r, b) }"""
    model, exact = parsed(text, w=w, r=r, b=b), parsed(text, w=w, r=r, b=b)
    assert (
        "ask with contrib=True"
        in declined(quantize(parsed(text, w=w, r=r, b=b), op_types="LSTM"))[0]
    )
    quantize(model, op_types=("LSTM",), contrib=True)
    assert operators(model) == {"DynamicQuantizeLSTM": 1}
    assert model.opset_imports["com.microsoft"] == 1
    assert all(
        value.dtype != ir.DataType.FLOAT
        for name, value in model.graph.initializers.items()
        if "quantized" in name
    )
    for found, expected in zip(run(model, x=x), run(exact, x=x), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.06)


def test_the_reference_evaluator_agrees() -> None:
    x, w = noise(4, 6), noise(6, 5, seed=1)
    model = parsed("m (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", w=w)
    quantize(model)
    found = ReferenceEvaluator(to_proto(model)).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, run(model, x=x)[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(st.data())
def test_chains_of_layers_stay_within_their_steps(data: Any) -> None:
    widths = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    kinds = data.draw(
        st.lists(
            st.sampled_from(["MatMul", "Gemm", "Gemm<transB=1>"]),
            min_size=len(widths) - 1,
            max_size=len(widths) - 1,
        )
    )
    lines, tensors, value = [], {}, "x"
    weights = []
    for i, (kind, k, n) in enumerate(zip(kinds, widths, widths[1:], strict=False)):
        matrix = noise(k, n, seed=data.draw(st.integers(0, 99)))
        weights.append(matrix)
        tensors[f"w{i}"] = matrix.T.copy() if "transB" in kind else matrix
        lines.append(f"v{i} = {kind}({value}, w{i})")
        value = f"v{i}"
    lines.append(f"y = Identity({value})")
    model = parsed(
        f"m (float[3,{widths[0]}] x) => (float[3,{widths[-1]}] y) {{ {'  '.join(lines)} }}",
        **tensors,
    )
    assert len(quantize(model)) == len(weights)
    x = noise(3, widths[0], seed=7)
    expected: Array = x
    slack = 0.0
    for matrix in weights:
        # What differs by rounding at a tie differs by one step from there on.
        slack = (slack + np.ptp(np.append(expected, 0)) / 255) * np.abs(matrix).sum(axis=0).max()
        expected = (activation(expected.astype(np.float32)) @ weight(matrix, 1)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], expected, atol=slack + 1e-5)
