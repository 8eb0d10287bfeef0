"""The tables of targets, and what they change in what is written."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from region_models import normal, ops, parse, quantized, run, sqnr

from graphopt.errors import GraphoptError
from passes.quantize.quantize import Quantize
from passes.quantize.targets import TARGETS, Kind, target

X = {"x": normal(16, 3, 8, 8, seed=3)}


@pytest.mark.parametrize("name", TARGETS)
def test_rules_speak_of_inputs_that_operators_have(name: str) -> None:
    for op_type, rule in target(name).rules.items():
        schema = onnx.defs.get_schema(op_type)
        for index in (*(rule.inputs or ()), *(() if rule.bias is None else (rule.bias,))):
            assert index < schema.max_input
        assert not (rule.bias is not None and rule.kind != Kind.COMPUTE)
    assert target(name).source


def test_an_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(GraphoptError, match="no target 'npu'") as raised:
        Quantize(mode="static", target="npu")
    assert "ort-cpu, ort-cuda, tensorrt, generic" in str(raised.value)


def _residual() -> ir.Model:
    return parse(
        """main (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v, b)
            s = Add(d, r) t = Relu(s) m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(t)
            y = Conv<pads=[1,1,1,1]>(m, v) }""",
        {"w": normal(4, 3, 3, 3, scale=0.3), "v": normal(4, 4, 3, 3, scale=0.2), "b": normal(4)},
    )


def test_tensorrt_gets_symmetric_int8_and_float_biases() -> None:
    model = _residual()
    tensorrt = Quantize(mode="static", activations="int8", target="tensorrt", read_back=False)
    result, _ = quantized(model, X, tensorrt)
    graph = result.graph
    assert "b" in graph.initializers
    zero_points = [n.inputs[2] for n in graph if n.op_type == "QuantizeLinear"]
    assert {int(v.const_value.numpy()) for v in zero_points} == {0}
    assert {v.dtype for v in zero_points} == {ir.DataType.INT8}
    assert ops(result)["Relu"] == 2  # fused by the runtime, whatever the zero point
    (total,) = (node for node in graph if node.op_type == "Add")
    assert all(v.producer().op_type == "DequantizeLinear" for v in total.inputs)
    assert sqnr(run(model, X)["y"], run(result, X)["y"]) > 25


def test_targets_that_run_no_convolutions_on_integers_keep_them() -> None:
    model = _residual()
    cuda = Quantize(mode="static", activations="int8", target="ort-cuda", read_back=False)
    result, said = quantized(model, X, cuda)
    assert ops(result) == ops(model)
    assert said == []
