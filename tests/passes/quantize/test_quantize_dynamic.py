from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError
from graphopt.model import to_proto
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.rewrite.constants import opset
from graphopt.rewrite.grid import Grid
from passes.quantize.dynamic import QuantizeDynamic

Array = npt.NDArray[Any]
HEADER = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'


def parsed(text: str, **tensors: Array) -> ir.Model:
    """Parse text; arrays become initializers of the main graph."""
    model = ir.from_onnx_text(text if text.lstrip().startswith("<") else HEADER + text)
    for name, array in tensors.items():
        value = next(
            value
            for scope in scopes(model)
            for node in scope.graph
            for value in node.inputs
            if value is not None and value.name == name
        )
        _become(model, value, ir.tensor(array, name=name))
    return model


def _become(model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.const_value = tensor
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    model.graph.register_initializer(value)


def quantize(model: ir.Model, **parameters: Any) -> list[Rewrite | Declined]:
    said = []
    for step in QuantizeDynamic(**parameters).rewrites(model, Context()):
        said.append(step)
        if isinstance(step, Rewrite):
            step.apply()
    return said


def declined(said: list[Rewrite | Declined]) -> list[str]:
    return [step.why for step in said if isinstance(step, Declined)]


def run(model: ir.Model, **feeds: Array) -> list[Array]:
    ort.set_default_logger_severity(4)
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=not model.functions)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


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


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for scope in scopes(model) for node in scope.graph)


def noise(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def activation(x: Array) -> Array:
    """What is left of an activation, after ONNX's DynamicQuantizeLinear."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32(high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def weight(w: Array, axis: int | None, steps: int = 127) -> Array:
    """What is left of a weight: symmetric, `steps` on each side."""
    rest = None if axis is None else tuple(a for a in range(w.ndim) if a != axis % w.ndim)
    scale = np.abs(w).max(axis=rest, keepdims=True) / steps
    scale = np.where(scale == 0, 1, scale)
    return np.rint(w / scale) * scale


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


def test_weights_behind_other_nodes() -> None:
    w = noise(5, 6)
    model = parsed(
        f"""m (float[4,6] x) => (float[4,5] y) {{
          c = Constant<value = float[5,6] {{{",".join(map(str, w.ravel()))}}}>()
          h = Cast<to=10>(c)  f = Cast<to=1>(h)  i = Identity(f)
          s = Constant<value = int64[3] {{1,-1,6}}>()  r = Reshape(i, s)
          a = Constant<value = int64[1] {{0}}>()  q = Squeeze(r, a)
          t = Transpose(q)
          y = MatMul(x, t) }}"""
    )
    x = noise(4, 6, seed=3)
    quantize(model)
    assert operators(model)["Constant"] == 0
    expected = activation(x) @ weight(w.astype(np.float16).astype(np.float32).T, 1)
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_shared_weight_is_stored_once() -> None:
    model = parsed(
        "m (float[4,6] x) => (float[4,6] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }",
        w=noise(6, 6),
    )
    quantize(model)
    assert sorted(model.graph.initializers) == ["w_quantized", "w_scale"]


def test_a_float_copy_never_stays_behind() -> None:
    model = parsed(
        """m (float[4,6] x, int64[2] i) => (float[4,6] y, float[2,6] e, float[6,6] z) {
          e = Gather(w, i)  a = MatMul(x, w)  b = MatMul(a, v)  y = MatMul(b, u)
          z = Identity(u) }""",
        w=noise(6, 6),
        v=noise(6, 6, seed=1),
        u=noise(6, 6, seed=2),
    )
    said = quantize(model)
    assert [step.at for step in said if isinstance(step, Rewrite)] == ["b"]
    assert sorted(declined(said)) == [
        "its weight 'u' is an output of a graph too",
        "its weight 'w' is read by Gather e too, which needs the floats",
    ]
    kept = quantize(
        parsed(
            "m (float[4,6] x) => (float[4,6] y) { a = MatMul(x, w)  y = MatMul(a, w) }",
            w=noise(6, 6),
        ),
        exclude="y",
    )
    assert declined(kept) == ["its weight 'w' is read by MatMul y too, which needs the floats"]


DECLINED = {
    "may override": ("(float[4,6] x, float[6,6] w)", "y = MatMul(x, w)", "w"),
    "left operand": ("(float[6,4] x)", "y = MatMul(w, x)", "w"),
    "both of its operands are activations": (
        "(float[4,6] x, float[6,6] v)",
        "y = MatMul(x, v)",
        "",
    ),
    "is a vector": ("(float[4,6] x)", "y = MatMul(x, u)", "u"),
    "holds NaN": ("(float[4,6] x)", "y = MatMul(x, n)", "n"),
}


@pytest.mark.parametrize("why", DECLINED)
def test_what_is_declined_stays(why: str) -> None:
    inputs, body, name = DECLINED[why]
    tensors = {"w": noise(6, 6), "u": noise(6), "n": np.full((6, 6), np.nan, np.float32)}
    model = parsed(f"m {inputs} => (float y) {{ {body} }}")
    if name:
        node = model.graph[0]
        value = next(value for value in node.inputs if value is not None and value.name == name)
        _become(model, value, ir.tensor(tensors[name], name=name))
    before = to_proto(model).SerializeToString()
    (said,) = declined(quantize(model))
    assert why in said
    assert to_proto(model).SerializeToString() == before


def test_activations_on_both_sides_on_request() -> None:
    a, b = noise(2, 3, 4, 6), noise(2, 3, 6, 5, seed=1)
    model = parsed(
        "m (float[2,3,4,6] a, float[2,3,6,5] b) => (float[2,3,4,5] y) { y = MatMul(a, b) }"
    )
    quantize(model, activations=True)
    expected = activation(a) @ activation(b)
    np.testing.assert_allclose(run(model, a=a, b=b)[0], expected, rtol=1e-4, atol=1e-4)


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


def test_bodies_and_functions() -> None:
    w = noise(6, 6)
    constant = (
        f"Constant<value = float[6,6] {{{','.join(map(str, noise(6, 6, seed=4).ravel()))}}}>()"
    )
    model = parsed(
        f"""<ir_version: 8, opset_import: ["" : 9, "local" : 1]>
        m (bool c, float[4,6] x) => (float[4,6] y) {{
          t = local.f(x)
          y = If(c) <
            then_branch = g () => (float[4,6] u) {{ u = MatMul(t, w) }},
            else_branch = h () => (float[4,6] v) {{ k = {constant} v = Gemm(t, k) }}
          > }}
        <opset_import: ["" : 9], domain: "local">
        f (a) => (b) {{ l = {constant} m = MatMul(a, l)  b = Clip<min=0.0>(m) }}""",
        w=w,
    )
    said = quantize(model)
    assert [step.at for step in said] == [
        "opset",
        "If_1/then_branch/u",
        "If_1/else_branch/v",
        "local:f/m",
    ]
    assert not operators(model)["MatMul"]
    assert not operators(model)["Gemm"]
    x, k = noise(4, 6, seed=5), noise(6, 6, seed=4)
    t = np.maximum(activation(x) @ weight(k, 1), 0)
    for way, right in ((True, w), (False, k)):
        expected = activation(t.astype(np.float32)) @ weight(right, 1)
        found = run(model, c=np.array(way), x=x)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.08)


def test_old_opsets_are_raised() -> None:
    model = parsed(
        """<ir_version: 3, opset_import: ["" : 9]>
        m (float[4,6] x) => (float[4,5] y) { c = Clip<min=0.0>(x)  y = MatMul(c, w) }""",
        w=noise(6, 5),
    )
    said = quantize(model)
    assert [step.at for step in said] == ["opset", "y"]
    assert opset(model) == 11
    x = noise(4, 6)
    expected = activation(np.maximum(x, 0)) @ weight(noise(6, 5), 1)
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-4, atol=1e-4)


def test_an_opset_that_cannot_be_raised_is_declined() -> None:
    model = parsed(
        """<ir_version: 4, opset_import: ["" : 9]>
        m (float[4,6] x) => (float[4,5] y, float[4,6] n)
          { c, n = Dropout(x)  y = MatMul(c, w) }""",
        w=noise(6, 5),
    )
    before = to_proto(model).SerializeToString()
    (why,) = declined(quantize(model))
    assert "Dropout 'c' of opset 9 cannot be written in opset 11" in why
    assert to_proto(model).SerializeToString() == before


def test_a_given_grid_is_taken() -> None:
    w = np.array([[0.5, -1.0], [0.25, 0.75]], np.float32)
    model = parsed("m (float[3,2] x) => (float[3,2] y) { y = MatMul(x, w) }", w=w)
    scale = np.array([0.25, 0.25], np.float32)
    model.graph.initializers["w"].meta["graphopt.grid"] = Grid(ir.DataType.INT8, scale, axis=1)
    quantize(model)
    kept = model.graph.initializers["w_scale"].const_value
    assert kept is not None
    np.testing.assert_array_equal(kept.numpy(), scale)


def test_the_reference_is_kept_as_it_was() -> None:
    model = parsed("m (float[2,3] x) => (float[2,2] y) { y = MatMul(x, w) }", w=noise(3, 2))
    before = to_proto(model).SerializeToString()
    context = Context()
    for step in QuantizeDynamic().rewrites(model, context):
        assert isinstance(step, Rewrite)
        step.apply()
    reference = context.cache["quantize.reference"]
    assert isinstance(reference, ir.Model)
    assert to_proto(reference).SerializeToString() == before


def test_the_reference_evaluator_agrees() -> None:
    x, w = noise(4, 6), noise(6, 5, seed=1)
    model = parsed("m (float[4,6] x) => (float[4,5] y) { y = MatMul(x, w) }", w=w)
    quantize(model)
    found = ReferenceEvaluator(to_proto(model)).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, run(model, x=x)[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"weights": "int4"}, "weights must be one of int8, uint8"),
        ({"granularity": "block"}, "granularity must be one of channel, tensor"),
        ({"op_types": "Softmax"}, "op_types has 'Softmax'"),
    ],
)
def test_parameters_are_checked(parameters: Mapping[str, Any], why: str) -> None:
    with pytest.raises(GraphoptError, match=why):
        QuantizeDynamic(**parameters)
