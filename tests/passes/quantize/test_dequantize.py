from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_models import (
    Array,
    declared,
    floats_of,
    grid,
    model_of,
    normal,
    on_runtime,
    operators,
    run_pass,
    with_weights,
)

from graphopt.model import load
from graphopt.model.scopes import scopes
from graphopt.runtime.synthetic import synthetic_feeds
from passes.quantize.dequantize import Dequantize
from passes.quantize.weights import QuantizeWeights

LAYERS = {
    "MatMul": ((40, 20), "float[N, 40] x", "y = MatMul(x, w)", 0, 1),
    "Gemm": ((20, 40), "float[N, 40] x", "y = Gemm<transB = 1>(x, w)", 1, 0),
    "Conv": ((20, 40, 3, 3), "float[N, 40, 5, 5] x", "y = Conv(x, w)", 1, 0),
}

INTEGER_OPERATORS = {
    "Cast",
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeLSTM",
    "MatMulInteger",
    "MatMulNBits",
    "QLinearAdd",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "int4"])
@pytest.mark.parametrize("form", ["folded", "dequantize", "matmulnbits"])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_come_back_as_the_nearest_on_their_grid(
    name: str, form: str, dtype: str, granularity: str, symmetric: bool
) -> None:
    shape, data, nodes, input_axis, output_axis = LAYERS[name]
    weight = normal(*shape)
    text = f"g ({data}) => (y) <{declared('w', weight)}> {{ {nodes} }}"
    work = QuantizeWeights(dtype=dtype, granularity=granularity, symmetric=symmetric, form=form)
    stored, step = run_pass(with_weights(text, w=weight), work)
    if not any(rewrite.at == "w" for rewrite in step.rewrites):
        assert "MatMulNBits takes" in step.declined[0].why or "no matrix" in step.declined[0].why
        return
    after, _ = run_pass(stored, Dequantize())
    axis, block = {
        "tensor": (None, 0),
        "channel": (output_axis, 0),
        "block": (input_axis, 32),
    }[granularity]
    near = grid(weight, dtype, axis, block, symmetric=symmetric).nearest(weight)
    (found,) = floats_of(after).values()
    np.testing.assert_array_equal(found if found.shape == near.shape else found.T, near)
    assert not set(operators(after)) & INTEGER_OPERATORS


def test_float16_weights_come_back_in_their_type() -> None:
    weight = normal(48, 20, dtype=np.float16)
    text = f"""g (float16[N, 48] x) => (float16[N, 20] y) <{declared("w", weight, "float16")}>
    {{ y = MatMul(x, w) }}"""
    stored, _ = run_pass(with_weights(text, w=weight), QuantizeWeights())
    after, _ = run_pass(stored, Dequantize())
    near = grid(weight, "int8", 1, 0, symmetric=True).nearest(weight).astype(np.float16)
    assert operators(after) == ["MatMul"]
    np.testing.assert_array_equal(floats_of(after)["w"], near)


@pytest.mark.parametrize("form", ["folded", "dequantize"])
def test_a_tied_table_comes_back_once(form: str) -> None:
    table = normal(60, 20)
    text = f"""g (int64[N, T] i) => (float[N, T, 60] y) <{declared("w", table)}>
    {{ e = Gather(w, i) t = Transpose<perm = [1, 0]>(w) y = MatMul(e, t) }}"""
    stored, _ = run_pass(with_weights(text, w=table), QuantizeWeights(form=form, symmetric=False))
    after, _ = run_pass(stored, Dequantize())
    assert sorted(operators(after)) == ["Gather", "MatMul", "Transpose"]
    near = grid(table, "int8", 0, 0, symmetric=False).nearest(table)
    assert list(floats_of(after)) == ["w"]
    np.testing.assert_array_equal(floats_of(after)["w"], near)


CONVNET = """g (float[N, 3, 8, 8] x) => (float[N, 10] y) <{w}, {v}, float[16] b = {{{b}}}> {{
  c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  r = Relu(c)
  d = Conv<pads = [1, 1, 1, 1]>(r, v, b)
  s = Add(d, r)
  q = Relu(s)
  p = GlobalAveragePool(q)
  f = Flatten(p)
  y = MatMul(f, h)
}}"""


@pytest.fixture
def convnet(tmp_path: Path) -> Path:
    w, v, h = normal(16, 3, 3, 3), normal(16, 16, 3, 3, seed=1), normal(16, 10, seed=2)
    text = CONVNET.format(w=declared("w", w), v=declared("v", v), b=", ".join(["0.5"] * 16))
    text = text.replace("<float", f"<{declared('h', h)}, float", 1)
    path = tmp_path / "float.onnx"
    onnx.save(ir.to_proto(with_weights(text, w=w, v=v, h=h)), path)
    return path


class Reader:
    """Calibration data for ONNX Runtime's quantizer."""

    def __init__(self) -> None:
        self._left = [{"x": normal(4, 3, 8, 8, seed=seed)} for seed in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("activation", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_static_models_of_onnx_runtime(
    convnet: Path, tmp_path: Path, form: str, per_channel: bool, activation: str
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    logging.disable(logging.WARNING)
    target = tmp_path / "int.onnx"
    quantization.quantize_static(
        convnet,
        target,
        Reader(),
        quant_format=quantization.QuantFormat[form],
        per_channel=per_channel,
        activation_type=quantization.QuantType[activation],
        weight_type=quantization.QuantType.QInt8,
    )
    model = load(target)
    after, step = run_pass(model, Dequantize())
    assert not step.declined
    assert not set(operators(after)) & INTEGER_OPERATORS
    data = {"x": normal(4, 3, 8, 8, seed=5)}
    wanted = on_runtime(load(convnet), data)[0]
    np.testing.assert_allclose(on_runtime(after, data)[0], wanted, atol=0.04 * np.abs(wanted).max())
    for name, before in floats_of(load(convnet)).items():
        (found,) = (array for array in floats_of(after).values() if array.shape == before.shape)
        step_size = np.abs(before).max() / 127
        assert 0 < np.abs(found - before).max() <= step_size, name


def test_dynamic_models_of_onnx_runtime(convnet: Path, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    target = tmp_path / "int.onnx"
    quantization.quantize_dynamic(convnet, target, per_channel=True)
    model = load(target)
    assert {"MatMulInteger", "ConvInteger"} & set(operators(model))
    after, step = run_pass(model, Dequantize())
    assert not step.declined
    assert not set(operators(after)) & INTEGER_OPERATORS
    data = {"x": normal(4, 3, 8, 8, seed=5)}
    wanted = on_runtime(load(convnet), data)[0]
    np.testing.assert_allclose(on_runtime(after, data)[0], wanted, atol=0.04 * np.abs(wanted).max())


QDQ = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y) <float s = {{0.5}}, {zero}> {{
  {before}
  q = QuantizeLinear({value}, s, z)
  d = DequantizeLinear(q, s, z)
  y = Neg(d)
}}"""


@pytest.mark.parametrize(
    ("zero", "before", "value", "left"),
    [
        ("uint8 z = {128}", "", "x", ["Neg"]),
        ("int8 z = {0}", "", "x", ["Neg"]),
        ("uint8 z = {0}", "", "x", ["Clip", "Neg"]),
        ("int8 z = {-128}", "", "x", ["Clip", "Neg"]),
        ("uint8 z = {0}", "r = Relu(x)", "r", ["Relu", "Neg"]),
        ("uint8 z = {0}", "r = Sigmoid(x) t = Transpose(r)", "t", ["Sigmoid", "Transpose", "Neg"]),
    ],
)
def test_a_clip_stays_where_integers_were_one(
    zero: str, before: str, value: str, left: list[str]
) -> None:
    model = model_of(QDQ.format(zero=zero, before=before, value=value))
    after, _ = run_pass(model, Dequantize())
    assert operators(after) == left
    if left == ["Clip", "Neg"]:
        data = np.array([[-3.0, 0.0, 2.25, 1000.0]], np.float32)
        np.testing.assert_array_equal(on_runtime(after, {"x": data})[0], [[0, 0, -2.25, -127.5]])


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (
            "q = QuantizeLinear(x, s, z) a = Cast<to = 1>(q) y = Mul(a, s)",
            "computes with its integers",
        ),
        (
            "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)",
            "another scale",
        ),
        (
            "q = QuantizeLinear(x, s, z) i = MatMulInteger(q, q) y = Cast<to = 1>(i)",
            "computes with its integers",
        ),
        (
            "q, a, b = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, b) y = Cast<to = 1>(i)",
            "what follows does not scale it",
        ),
    ],
)
def test_what_is_not_known_is_declined(nodes: str, why: str) -> None:
    model = model_of(
        f"""g (float[4, 4] x) => (float[4, 4] y)
        <float s = {{0.5}}, float t = {{0.25}}, uint8 z = {{3}}, int8[4, 1] w = {{1, 2, 3, 4}}>
        {{ {nodes} }}"""
    )
    after, step = run_pass(model, Dequantize())
    assert not step.rewrites
    assert any(why in declined.why for declined in step.declined)
    assert operators(after) == operators(model)


def test_places_are_chosen_by_name() -> None:
    w, v = normal(32, 32), normal(32, 32, seed=1)
    text = f"""g (float[N, 32] x) => (y) <{declared("w", w)}, {declared("v", v)}>
    {{ [first] a = MatMul(x, w) [second] y = MatMul(a, v) }}"""
    model, _ = run_pass(with_weights(text, w=w, v=v), QuantizeWeights())
    assert list(floats_of(run_pass(model, Dequantize(include="first"))[0])) == ["w"]
    assert list(floats_of(run_pass(model, Dequantize(exclude="first"))[0])) == ["v"]
    assert len(floats_of(run_pass(model, Dequantize())[0])) == 2


def test_a_float_model_stays_as_it_is() -> None:
    weight = normal(32, 32)
    text = f"g (float[N, 32] x) => (y) <{declared('w', weight)}> {{ y = MatMul(x, w) }}"
    _, step = run_pass(with_weights(text, w=weight), Dequantize())
    assert not step.rewrites
    assert not step.declined


PACKAGE = "text2tashkeel"


def _models_of_text2tashkeel() -> list[Any]:
    import importlib.util

    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return [pytest.param(None, marks=pytest.mark.skip(f"{PACKAGE} is not installed"))]
    paths = sorted((Path(found.origin).parent / "models").glob("*.int8.onnx"))
    return [pytest.param(path, id=path.stem) for path in paths]


@pytest.mark.parametrize("path", _models_of_text2tashkeel())
def test_recurrent_models_that_others_quantized(path: Path) -> None:
    model = load(path)
    after, step = run_pass(model, Dequantize())
    assert not step.declined
    left = {node.op_type for scope in scopes(after) for node in scope.graph}
    assert not left & INTEGER_OPERATORS
    batch = next(iter(synthetic_feeds(model).batches(2)))
    before, found = on_runtime(model, batch, "all"), on_runtime(after, batch, "all")
    for one, other in zip(before, found, strict=True):
        agree = np.isclose(one, other, atol=0.06 * max(1.0, float(np.abs(one).max())))
        assert agree.mean() > 0.99
