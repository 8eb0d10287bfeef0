"""Models brought into the form that is computed: functions, constants, names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

FUNCTION = """
<ir_version: 9, opset_import: ["" : 12, "own" : 1]>
g (float[batch, 3] x) => (float[batch, 3] y) <float[3] bias = {1, 2, 3}>
{
  y = own.Shifted <by = 2.0> (x, bias)
}
<domain: "own", opset_import: ["" : 12]>
Shifted <by> (a, b) => (c)
{
  scale = Constant <value_float : float = @by> ()
  scaled = Mul (a, scale)
  c = Add (scaled, b)
}
"""


def against_onnx_runtime(text: str) -> OnnxModule:
    model = onnx.parser.parse_model(text)
    x = np.random.default_rng(0).standard_normal((5, *_width(model))).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    module = OnnxModule(ir.from_proto(model))
    found = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return module


def _width(model: onnx.ModelProto) -> tuple[int]:
    return (model.graph.input[0].type.tensor_type.shape.dim[1].dim_value,)


def test_a_function_is_computed_by_what_it_holds() -> None:
    module = against_onnx_runtime(FUNCTION)
    assert dict(module.named_parameters()).keys() == {"bias"}


def test_operators_that_nothing_computes_are_named_together() -> None:
    model = onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["" : 20, "own" : 1]>
g (float[n] x) => (float[n] y)
{
  a = own.Strange (x)
  b = own.Stranger (a)
  y = own.Strange (b)
}""")
    with pytest.raises(GraphoptError, match=r"nothing computes own\.Strange, own\.Stranger in"):
        OnnxModule(ir.from_proto(model))


def test_the_model_stays_as_it_is() -> None:
    model = ir.from_proto(onnx.parser.parse_model(FUNCTION))
    before = ir.to_proto(model)
    OnnxModule(model)
    assert ir.to_proto(model) == before


def test_weights_keep_their_names_and_are_copies() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["" : 20]>
g (float[n, 2] x) => (float[n, 2] y)
<float[2, 2] "block.0.weight" = {1, 2, 3, 4}, float[2] "training" = {1, 1},
 float[2] "block" = {2, 2}, float one = {1}, float[2] low = {-9, -9}>
{
  a = MatMul (x, "block.0.weight")
  b = Add (a, "training")
  c = Mul (b, "block")
  d = Add (c, one)
  y = Max (d, low)
}""")
    )
    module = OnnxModule(model)
    assert set(module.initializer_names.values()) == {"block.0.weight", "training", "block", "low"}
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    (held,) = (value.const_value for name, value in model.graph.initializers.items() if "0" in name)
    assert held is not None
    assert held.numpy().tolist() == [[1, 2], [3, 4]]
