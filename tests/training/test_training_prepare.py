"""Models brought into the form that is computed: functions, constants, names."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

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


BRANCH = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[n, 3] x) => (float[n, 3] y) <float[3] bias = {1, 2, 3}, float zero = {0}>
{
  total = ReduceSum <keepdims = 0> (x)
  positive = Greater (total, zero)
  y = If (positive) <
    then_branch = a () => (float[m, 3] p) { p = Add (x, bias) },
    else_branch = b () => (float[m, 3] q) { q = Sub (x, bias) }
  >
}"""


def saved_and_loaded(module: OnnxModule) -> OnnxModule:
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    loaded: OnnxModule = torch.load(stream, weights_only=False)
    return loaded


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


ONE_NUMBER = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[n, 2] x) => (float[n, 1] y)
<float[2, 1] weight = {1, 2}, float[1] bias = {3}, float[1] slope = {0.5}, float temperature = {2},
 float[1] shrink = {0.125}>
{
  a = Gemm (x, weight, bias)
  b = PRelu (a, slope)
  c = Mul (b, shrink)
  y = Mul (c, temperature)
}"""


def test_a_single_number_trains_where_a_layer_reads_it_or_when_asked() -> None:
    model = ir.from_proto(onnx.parser.parse_model(ONE_NUMBER))
    parameters = dict(OnnxModule(model).named_parameters())
    assert parameters.keys() == {"weight", "bias", "slope"}
    asked = OnnxModule(model, train=["temperature"])
    asked(torch.ones(3, 2)).sum().backward()
    weights = dict(asked.named_parameters())
    assert weights.keys() == {"weight", "bias", "slope", "temperature"}
    assert weights["temperature"].grad == pytest.approx(6 * 0.125 * 3)
    with pytest.raises(GraphoptError, match="no initializer 'warmth' to train"):
        OnnxModule(model, train=["warmth"])


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_copy_has_weights_of_its_own(copied: Callable[[OnnxModule], OnnxModule]) -> None:
    module = OnnxModule(ir.from_proto(onnx.parser.parse_model(BRANCH)))
    other = copied(module)
    x = torch.tensor([[1.0, -2, 3]])
    expected = module(x)
    assert torch.equal(other(x), expected)
    assert other.input_names == ("x",)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert torch.equal(module(x), expected)
    assert not torch.equal(other(x), expected)


def test_a_module_of_another_type_computes_in_it() -> None:
    module = OnnxModule(ir.from_proto(onnx.parser.parse_model(BRANCH))).double()
    x = torch.tensor([[1 / 3, 2, 3]], dtype=torch.float64)
    assert torch.equal(module(x), x + torch.tensor([1, 2, 3], dtype=torch.float64))


def test_inputs_that_do_not_fit() -> None:
    module = OnnxModule(ir.from_proto(onnx.parser.parse_model(FUNCTION)))
    x = torch.ones(1, 3)
    assert torch.equal(module(x=x), module(x))
    for inputs, named in (((x,), {"x": x}), ((), {"z": x}), ((x, x), {}), ((), {})):
        with pytest.raises(GraphoptError, match=r"; give x$"):
            module(*inputs, **named)


CONSTANTS = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[n, 4, 3] x) => (float[n, 4, 3] y)
<float[1, 4, 3] position = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
 float[4, 3] cosine = {1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0}, float[3] scale = {1, 2, 3},
 float[1, 4, 3] mask = {0, 0, -1e30, 0, 0, 0, 0, 0, 0, 0, 0, 0},
 float[2] ones = {1, 1}, float[2] zeros = {0, 0}, int64[3] groups = {0, 2, 6}>
{
  a = Add (x, position)
  b = Mul (a, cosine)
  c = Mul (b, scale)
  d = Add (c, mask)
  before = Shape (d)
  e = Reshape (d, groups)
  f = InstanceNormalization (e, ones, zeros)
  y = Reshape (f, before)
}"""


def test_masks_tables_and_ones_of_groups_do_not_train() -> None:
    module = OnnxModule(ir.from_proto(onnx.parser.parse_model(CONSTANTS)))
    assert dict(module.named_parameters()).keys() == {"position", "scale"}
    assert {"cosine", "mask", "ones", "zeros"} <= dict(module.named_buffers()).keys()


def test_inputs_of_another_kind_or_type_are_named() -> None:
    module = OnnxModule(ir.from_proto(onnx.parser.parse_model(FUNCTION)))
    with pytest.raises(GraphoptError, match=r"input 'x' is a ndarray; .*from_numpy"):
        module(np.ones((1, 3), np.float32))
    with pytest.raises(GraphoptError, match=r"'x' is of torch\.int64, and the model takes torch"):
        module(torch.ones(1, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="size of tensor") as error:
        module(torch.ones(1, 4))
    assert error.value.__notes__[0].startswith("computing Add")


def test_a_huge_power_wraps_at_once() -> None:
    model = onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["" : 20]>
g () => (int64 y) <int64 three = {3}, int64 many = {2000000000}> { y = Pow (three, many) }""")
    found = int(OnnxModule(ir.from_proto(model))())
    assert found % 2**64 == pow(3, 2_000_000_000, 2**64)


def test_counting_in_steps_of_0_is_refused() -> None:
    model = onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["" : 20]>
g () => (int64[n] y) <int64 one = {1}, int64 five = {5}, int64 zero = {0}>
{ y = Range (one, five, zero) }""")
    with pytest.raises(GraphoptError, match=r"Range .*: it counts in steps of 0"):
        OnnxModule(ir.from_proto(model))()
