from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from dynamic_models import (
    _become,
    activation,
    declined,
    noise,
    operators,
    parsed,
    quantize,
    run,
    weight,
)

from graphopt.errors import GraphoptError
from graphopt.model import to_proto
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.rewrite.constants import opset
from graphopt.rewrite.grid import Grid
from passes.quantize.dynamic import QuantizeDynamic


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
