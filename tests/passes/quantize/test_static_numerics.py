"""Quantized layers against numpy: what the integers stand for, computed in float64, and rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from region_models import left_float, normal, ops, parse, quantized, run, sqnr

from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import array
from graphopt.rewrite.grid import Grid
from passes.quantize.quantize import Quantize

Array = np.ndarray[Any, np.dtype[Any]]

# name: (shape of x, body, weights)
LAYERS: dict[str, tuple[str, str, dict[str, Array]]] = {
    "Conv 1d": (
        "N,3,9",
        "Conv<pads=[1,1]>(x, w, b)",
        {"w": normal(4, 3, 3), "b": normal(4, seed=1)},
    ),
    "Conv 2d": ("N,3,6,6", "Conv<strides=[2,2]>(x, w)", {"w": normal(4, 3, 3, 3)}),
    "Conv 3d": ("N,2,4,4,4", "Conv(x, w, b)", {"w": normal(3, 2, 2, 2, 2), "b": normal(3)}),
    "Conv grouped": ("N,4,5,5", "Conv<group=2>(x, w)", {"w": normal(6, 2, 3, 3)}),
    "Conv depthwise": (
        "N,4,5,5",
        "Conv<group=4>(x, w, b)",
        {"w": normal(4, 1, 3, 3), "b": normal(4)},
    ),
    "Conv dilated": ("N,2,9,9", "Conv<dilations=[2,2]>(x, w)", {"w": normal(3, 2, 3, 3)}),
    "Gemm": ("N,8", "Gemm(x, w, b)", {"w": normal(8, 5), "b": normal(5)}),
    "Gemm transposed": ("N,8", "Gemm<transB=1>(x, w, b)", {"w": normal(5, 8), "b": normal(5)}),
    "MatMul": ("N,8", "MatMul(x, w)", {"w": normal(8, 5)}),
    "MatMul 3d": ("N,4,8", "MatMul(x, w)", {"w": normal(8, 5)}),
    "MatMul batched weight": ("N,2,4,8", "MatMul(x, w)", {"w": normal(2, 8, 5)}),
    "MatMul of two": ("N,4,4", "MatMul(x, x)", {}),
    "MatMul weight first": ("N,4,5", "MatMul(w, x)", {"w": normal(3, 4)}),
}


def _feeds(shape: str) -> dict[str, Array]:
    sizes = [32, *map(int, shape.split(",")[1:])]
    return {"x": normal(*sizes, seed=7, scale=2.0)}


def _layer(name: str) -> ir.Model:
    shape, body, weights = LAYERS[name]
    rank = {"Conv 1d": 3, "Conv 3d": 5}.get(name, len(shape.split(",")))
    dims = ",".join(f"d{axis}" for axis in range(rank))
    return parse(f"main (float[{shape}] x) => (float[{dims}] y) {{ y = {body} }}", weights)


def _grid(node: ir.Node) -> Grid:
    scale = array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    assert scale is not None
    axis = node.attributes.get_int("axis", 1) if scale.ndim else None
    if zero is None:
        return Grid(ir.DataType.INT32, scale, None, axis)
    return Grid(ir.DataType.from_numpy(zero.dtype), scale, zero.astype(np.int32), axis)


def _simulated(model: ir.Model, result: ir.Model, x: Array) -> Array:
    """Compute the float model in float64 on what the integers of the quantized one stand for."""
    twin = snapshot(model)
    inputs = [n for n in result.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == "x"]
    x = _grid(inputs[0]).nearest(x)
    for name, value in twin.graph.initializers.items():
        (node,) = (n for n in result.graph if n.outputs[0].name == f"{name}_dq")
        stored = array(node.inputs[0])
        assert stored is not None
        real = _grid(node).dequantize(stored)
        if stored.dtype != np.int32:
            step = np.broadcast_to(_grid(node)._spread(_grid(node).scale, real.shape), real.shape)
            assert (np.abs(real - value.const_value.numpy()) <= step * 0.501).all()
            assert stored.min() >= -127  # narrow
        value.const_value = ir.Tensor(real.astype(np.float32))
    proto = ir.to_proto(twin)
    return np.asarray(ReferenceEvaluator(proto).run(None, {"x": x})[0])


@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_what_its_integers_stand_for(name: str) -> None:
    model = _layer(name)
    feeds = _feeds(LAYERS[name][0])
    result, _ = quantized(model, feeds)
    assert left_float(result) == []
    wild = {"x": feeds["x"] * 3}  # beyond the range: saturates
    for fed in (feeds, wild):
        expected = _simulated(model, result, fed["x"])
        found = {
            "onnxruntime": run(result, fed)["y"],
            "reference": ReferenceEvaluator(ir.to_proto(result)).run(None, fed)[0],
        }
        last = result.graph.outputs[0].producer()
        assert last is not None
        step = 0.0
        if last.op_type == "DequantizeLinear":
            grid = _grid(last)
            expected, step = grid.nearest(expected), float(grid.scale)
        for computed in found.values():
            tolerance = step * 1.001 + 1e-4 * np.abs(expected).max()
            assert np.abs(computed - expected).max() <= tolerance


def test_biases_are_int32_in_steps_of_input_times_weight() -> None:
    model = _layer("Conv 1d")
    result, _ = quantized(model, _feeds("N,3,9"))
    graph = result.graph
    bias = graph.initializers["b_quantized"].const_value
    assert bias.dtype == ir.DataType.INT32
    steps = graph.initializers["x_scale"].const_value.numpy() * (
        graph.initializers["w_scale"].const_value.numpy()
    )
    np.testing.assert_array_equal(graph.initializers["b_scale"].const_value.numpy(), steps)
    np.testing.assert_array_equal(bias.numpy(), np.rint(normal(4, seed=1) / steps).astype(int))
    assert "w" not in graph.initializers
    assert "b" not in graph.initializers


def test_ties_are_rounded_to_even_and_ends_saturate() -> None:
    model = _layer("MatMul")
    overrides = {"x": {"scale": 0.5, "zero_point": 128}}
    quantize = Quantize(mode="static", overrides=overrides, read_back=False)
    result, _ = quantized(model, _feeds("N,8"), quantize)
    x = np.array([[0.25, 0.75, -0.25, -0.75, 1.25, 1e6, -1e6, 0.0]], np.float32)
    stored = np.array([[0.0, 1.0, 0.0, -1.0, 1.0, 63.5, -64.0, 0.0]], np.float32)
    weight = result.graph.initializers["w_quantized"].const_value.numpy()
    scale = result.graph.initializers["w_scale"].const_value.numpy()
    expected = stored @ (weight * scale)
    np.testing.assert_allclose(run(result, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_zero_weights_and_dead_channels_keep_their_bias() -> None:
    weight, bias = normal(4, 3, 1, 1), np.array([0.3, -0.7, 1e-3, 5.0], np.float32)
    weight[1:] = 0
    body = "main (float[N,3,4,4] x) => (float[N,4,4,4] y) { y = Conv(x, w, b) }"
    model = parse(body, {"w": weight, "b": bias})
    feeds = _feeds("N,3,4,4")
    result, _ = quantized(model, feeds)
    scale = result.graph.initializers["y_scale"].const_value.numpy()
    found = run(result, feeds)["y"]
    assert left_float(result) == []
    assert np.abs(found[:, 1:] - bias[None, 1:, None, None]).max() <= scale / 2 * 1.001


def test_bias_that_32_bits_would_not_hold_raises_the_weight_scale() -> None:
    weight, bias = normal(2, 3, 1, 1), np.array([1e6, 1.0], np.float32)
    weight[0] *= 1e-9
    body = "main (float[N,3,4,4] x) => (float[N,2,4,4] y) { y = Conv(x, w, b) }"
    model = parse(body, {"w": weight, "b": bias})
    feeds = _feeds("N,3,4,4")
    result, _ = quantized(model, feeds)
    stored = result.graph.initializers["b_quantized"].const_value.numpy()
    assert abs(int(stored[0])) <= 1 << 30
    found = run(result, feeds)["y"]
    scale = result.graph.initializers["y_scale"].const_value.numpy()
    assert np.abs(found[:, 0] - 1e6).max() <= scale * 1.001
    assert left_float(result) == []


def test_relu_is_the_saturation_of_its_layer() -> None:
    body = """main (float[N,3,4,4] x) => (float[N,4,4,4] y) {
        c = Conv(x, w) r = Relu(c) y = MaxPool<kernel_shape=[1,1]>(r) }"""
    result, _ = quantized(parse(body, {"w": normal(4, 3, 1, 1)}), _feeds("N,3,4,4"))
    (node,) = (n for n in result.graph if n.outputs[0].name == "r_q")
    assert int(array(node.inputs[2])) == 0
    assert ops(result)["QuantizeLinear"] == 3
    assert left_float(result) == []


def test_factors_of_a_gemm_go_into_its_constants() -> None:
    body = "main (float[N,8] x) => (float[N,5] y) { y = Gemm<alpha=-0.5, beta=2.0>(x, w, b) }"
    model = parse(body, {"w": normal(8, 5), "b": normal(5)})
    feeds = _feeds("N,8")
    result, _ = quantized(model, feeds)
    assert left_float(result) == []
    assert sqnr(run(model, feeds)["y"], run(result, feeds)["y"]) > 35
