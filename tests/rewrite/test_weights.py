from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.rewrite.layers import Axes, Role
from graphopt.rewrite.weights import Unusable, Weight, weights

TEXT = Path(__file__).resolve().parents[2] / "fixtures" / "text"


def fixture(name: str) -> ir.Model:
    return ir.from_onnx_text((TEXT / f"{name}.onnxtxt").read_text())


def model(body: str, opset: int = 20, imports: str = "") -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}{imports}]>\n{body}')


def found(one: ir.Model, **options: object) -> dict[str, Weight]:
    return {w.at: w for w in weights(one, **options) if isinstance(w, Weight)}  # type: ignore[arg-type]  # options vary by test


def refused(one: ir.Model, **options: object) -> dict[str, str]:
    return {w.at: w.why for w in weights(one, **options) if isinstance(w, Unusable)}  # type: ignore[arg-type]  # options vary by test


def axes_of(body: str) -> Axes:
    (weight,) = found(model(body)).values()
    return weight.uses[0].axes


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        ("Conv (x, w)", "4, 3, 2, 2", Axes(0, (1, 2, 3), 1)),
        ("Conv <group = 3> (x, w)", "3, 1, 2", Axes(0, (1, 2), 1)),
        ("ConvTranspose (x, w)", "3, 4, 2, 2", Axes(1, (0, 2, 3), 0)),
        ("ConvTranspose <group = 3> (x, w)", "3, 4, 2, 2", Axes(1, (0, 2, 3), 0, 3)),
        ("MatMul (x, w)", "3, 4", Axes(1, (0,), 0)),
        ("MatMul (w, x)", "3, 4", Axes(0, (1,), 1)),
        ("MatMul (x, w)", "5, 3, 4", Axes(2, (1,), 1)),
        ("MatMul (x, w)", "3", Axes(None, (0,), 0)),
        ("Gemm (x, w)", "3, 4", Axes(1, (0,), 0)),
        ("Gemm <transB = 1> (x, w)", "3, 4", Axes(0, (1,), 1)),
        ("Gemm (w, x)", "3, 4", Axes(0, (1,), 1)),
        ("Gemm <transA = 1> (w, x)", "3, 4", Axes(1, (0,), 0)),
        ("LSTM <hidden_size = 1> (x, w, r)", "1, 4, 3", Axes(1, (2,), 2)),
    ],
)
def test_axes_of_layers(layer: str, shape: str, expected: Axes) -> None:
    one = model(f"g (float[N] x, float[A, B, C] r, float[{shape}] w) => (y) {{ y = {layer} }}")
    value = one.graph.inputs[2]
    sizes = [int(size) for size in shape.split(", ")]
    one.graph.inputs.pop(2)
    value.const_value = ir.tensor(np.ones(sizes, np.float32), name="w")
    one.graph.register_initializer(value)
    assert found(one)["w"].uses[0].axes == expected


@pytest.mark.parametrize(
    ("way", "axes"),
    [
        ("v = Identity (w)", Axes(1, (0,), 0)),
        ("v = Transpose <perm = [1, 0]> (w)", Axes(0, (1,), 1)),
        ("u = Transpose (w) v = Transpose (u)", Axes(1, (0,), 0)),
        ("u = Unsqueeze <axes = [0]> (w) v = Squeeze <axes = [0]> (u)", Axes(1, (0,), 0)),
        ("v = Unsqueeze <axes = [0]> (w)", Axes(1, (0,), 0)),
    ],
)
def test_sees_through_nodes_that_pass_numbers_on(way: str, axes: Axes) -> None:
    body = (
        f"g (float[N, 2] x) => (y) <float[2, 2] w = {{1, 2, 3, 4}}> {{ {way} y = MatMul (x, v) }}"
    )
    (weight,) = found(model(body, opset=11)).values()
    assert weight.uses[0].axes == axes


def test_a_cast_weight_is_found_as_it_is_stored() -> None:
    body = """g (float[N, 2] x) => (y) <float16[2, 1] w = {1, 2}>
    { v = Cast <to = 1> (w) y = MatMul (x, v) }"""
    assert found(model(body))["w"].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("v = Relu (w) z = MatMul (x, w)", "shared by a Relu"),
        ("v = Cast <to = 7> (w) z = MatMul (x, w)", "shared by a Cast to INT64"),
        ("v = Identity (x) z = Einsum <equation = 'ij,jk->ik'> (x, w)", "an operand of an Einsum"),
    ],
)
def test_other_readers_are_named(way: str, why: str) -> None:
    way = way.replace("'", '"')
    body = f"g (float[N, 2] x) => (v, z) <float[2, 2] w = {{1, 2, 3, 4}}> {{ {way} }}"
    assert refused(model(body)) == {"w": why}


def test_a_reshape_that_mixes_axes_is_refused_and_one_that_moves_ones_is_not() -> None:
    body = """g (float[N, SIZE] x) => (y)
    <float[2, 2] w = {1, 2, 3, 4}, int64[RANK] s = {TARGET}>
    { u = Reshape (w, s) v = Transpose (u) z = MatMul (x, w) y = MatMul (x, u) }"""
    mixing = body.replace("SIZE", "4").replace("RANK", "2").replace("TARGET", "4, 1")
    assert refused(model(mixing)) == {"w": "read through a Reshape that mixes its axes"}
    moving = body.replace("SIZE", "2").replace("RANK", "3").replace("TARGET", "1, 0, -1")
    moving = moving.replace("0, -1", "2, -1")
    assert [use.axes for use in found(model(moving))["w"].uses] == [Axes(1, (0,), 0)] * 2


def test_constant_nodes_of_any_form() -> None:
    one = fixture("constant_weights")
    assert list(found(one)) == ["w"]
    assert list(found(one, roles=(Role.BIAS,))) == ["b"]
    bias = found(one, roles=(Role.BIAS,))["b"]
    bias.replace(ir.tensor(np.array([0, 1], np.float32)))
    (again,) = found(one, roles=(Role.BIAS,)).values()
    np.testing.assert_array_equal(again.tensor.numpy(), [0, 1])
    reread = ir.from_proto(ir.to_proto(one))
    np.testing.assert_array_equal(
        found(reread, roles=(Role.BIAS,))["b"].tensor.numpy(), np.array([0, 1], np.float32)
    )


def test_a_replacement_must_look_alike() -> None:
    weight = found(fixture("constant_weights"))["w"]
    with pytest.raises(ValueError, match=r"w is FLOAT\[3,2\]"):
        weight.replace(ir.tensor(np.zeros((2, 3), np.float32)))
    with pytest.raises(ValueError, match=r"w is FLOAT\[3,2\]"):
        weight.replace(ir.tensor(np.zeros((3, 2), np.float64)))


def test_a_shared_weight_comes_once_and_a_gather_keeps_it() -> None:
    one = fixture("shared_weights")
    assert refused(one) == {"w": "shared by a Gather as embedding"}
    assert list(found(one)) == ["twin"]
    both = found(one, roles=(Role.WEIGHT, Role.EMBEDDING))
    assert [use.node.op_type for use in both["w"].uses] == ["MatMul", "MatMul", "Gather"]


def test_weights_in_and_around_bodies() -> None:
    nested = found(fixture("nested_if"))
    assert list(nested) == ["w", "If_1/then_branch/If_1/then_branch/v"]
    (use,) = found(fixture("loop"))["w"].uses
    assert use.scope.name == "Loop_0/body"


def test_a_weight_passed_to_a_function_is_read_inside() -> None:
    one = fixture("functions")
    (weight,) = found(one).values()
    assert weight.at == "w"
    assert [use.scope.name for use in weight.uses] == ["local:Dense"]


def test_a_constant_in_a_function() -> None:
    body = """g (float[N, 2] x) => (y) { y = local.F (x) }
    <domain: "local", opset_import: ["" : 20]>
    F (a) => (b) { w = Constant <value = float[2, 1] {1, 2}> () b = MatMul (a, w) }"""
    one = model(body, imports=', "local" : 1')
    assert list(found(one)) == ["local:F/w"]


def test_an_overridable_weight_is_refused() -> None:
    body = (
        """g (float[N, 2] x, float[2, 1] w) => (y) <float[2, 1] w = {1, 2}> { y = MatMul (x, w) }"""
    )
    (why,) = refused(model(body)).values()
    assert "the caller may override it" in why


def test_the_inputs_of_an_old_file_are_fixed_weights() -> None:
    body = (
        """g (float[N, 2] x, float[2, 1] w) => (y) <float[2, 1] w = {1, 2}> { y = MatMul (x, w) }"""
    )
    old = ir.from_onnx_text(f'<ir_version: 3, opset_import: ["" : 8]>\n{body}')
    weight = found(old)["w"]
    weight.replace(ir.tensor(np.zeros((2, 1), np.float32)))
    np.testing.assert_array_equal(weight.tensor.numpy(), [[0], [0]])


def test_a_weight_that_is_an_output_is_refused() -> None:
    body = """g (float[N, 2] x) => (y, w) <float[2, 1] w = {1, 2}> { y = MatMul (x, w) }"""
    assert refused(model(body)) == {"w": "shared by an output of the graph"}


def test_quantized_weights() -> None:
    quantization = found(fixture("qdq"))["w_quantized"].quantization
    assert quantization is not None
    assert quantization.axis == 1
    np.testing.assert_array_equal(quantization.scale.numpy(), np.float32([0.01, 0.02]))
    computed = model("""g (float[N, 2] x, float s) => (y) <int8[2, 1] w = {1, 2}>
    { v = DequantizeLinear (w, s) y = MatMul (x, v) }""")
    assert refused(computed) == {"w": "quantized with a scale that is computed"}
    integer = model(
        """g (uint8[N, 2] x) => (y) <uint8[2, 1] w = {1, 2}> { y = MatMulInteger (x, w) }"""
    )
    assert refused(integer) == {"w": "integers whose scale is applied behind the layer"}


def test_blockwise_quantized_weights_say_their_blocks() -> None:
    body = """g (float[N, 4] x) => (y) <int8[4, 1] w = {1, 2, 3, 4}, float[2, 1] s = {0.1, 0.2}>
    { v = DequantizeLinear <axis = 0, block_size = 2> (w, s) y = MatMul (x, v) }"""
    (weight,) = weights(model(body, opset=21))
    assert isinstance(weight, Weight)
    assert weight.quantization is not None
    assert (weight.quantization.axis, weight.quantization.block_size) == (0, 2)


def test_blocks_behind_a_transpose_are_refused() -> None:
    body = """g (float[N, 4] x) => (y) <int8[1, 4] w = {1, 2, 3, 4}, float[2, 1] s = {0.1, 0.2}>
    { t = Transpose (w) v = DequantizeLinear <axis = 0, block_size = 2> (t, s)
      y = MatMul (x, v) }"""
    assert refused(model(body, opset=21)) == {"w": "quantized in blocks of transposed axes"}


def test_fake_quantized_weights_are_real() -> None:
    body = """g (float[N, 2] x) => (y) <float[2, 1] w = {1, 2}, float s = {0.1}, int8 z = {0}>
    { q = QuantizeLinear (w, s, z) v = DequantizeLinear (q, s, z) y = MatMul (x, v) }"""
    assert found(model(body))["w"].quantization is None


def test_rotary_frequencies_are_no_weight() -> None:
    body = """g (float[1, N] x) => (y) <float[2, 1] w = {1, 0.0001}> { y = MatMul (w, x) }"""
    assert refused(model(body)) == {"w": "an outer product sums over nothing"}


def test_globs_and_operators_choose() -> None:
    body = """g (float[N, 2] x) => (y)
    <float[2, 2] first = {1, 2, 3, 4}, float[2, 2] second = {1, 2, 3, 4}>
    { h = MatMul (x, first) y = Gemm (h, second) }"""
    one = model(body)
    assert list(found(one, include="f*")) == ["first"]
    assert list(found(one, include=("f*", "s*"), exclude="*t")) == ["second"]
    assert list(found(one, op_types="Gemm")) == ["second"]
    assert list(found(one, op_types=("Gemm", "MatMul"))) == ["first", "second"]


def test_normalization_and_bias_only_on_request() -> None:
    body = """g (float[N, 2, 4] x) => (y)
    <float[2, 2, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2] s = {1, 2}, float[2] t = {1, 2},
     float[2] m = {1, 2}, float[2] v = {1, 2}>
    { h = Conv (x, w, b) y = BatchNormalization (h, s, t, m, v) }"""
    one = model(body)
    assert list(found(one)) == ["w"]
    assert list(found(one, roles=(Role.BIAS,))) == ["b"]
    assert list(found(one, roles=(Role.NORMALIZATION,))) == ["s", "t"]


WRITTEN_OUT = """g (float[N, 4] x) => (y) <int8[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, %s>
{ c = Cast <to = 1> (w) %s y = MatMul (x, v) }"""


@pytest.mark.parametrize(
    ("constants", "nodes", "axis", "block_size", "zero_point"),
    [
        ("float s = {0.5}", "v = Mul (c, s)", None, 0, None),
        ("float[2] s = {0.5, 0.25}", "v = Mul (s, c)", 1, 0, None),
        ("float[4, 1] s = {1, 2, 3, 4}", "v = Mul (c, s)", 0, 0, None),
        (
            "float[2] s = {0.5, 0.25}, int8 z = {3}",
            "f = Cast <to = 1> (z) d = Sub (c, f) v = Mul (d, s)",
            1,
            0,
            [3, 3],
        ),
        (
            "float[2, 2] s = {1, 2, 3, 4}, int32[4] i = {0, 0, 0, 1}",
            "r = Gather (s, i) v = Mul (c, r)",
            0,
            3,
            None,
        ),
    ],
)
def test_dequantization_may_be_written_out(
    constants: str,
    nodes: str,
    axis: int | None,
    block_size: int,
    zero_point: list[int] | None,
) -> None:
    (weight,) = weights(model(WRITTEN_OUT % (constants, nodes)))
    assert isinstance(weight, Weight)
    found = weight.quantization
    assert found is not None
    assert (found.axis, found.block_size) == (axis, block_size)
    points = None if found.zero_point is None else found.zero_point.numpy().tolist()
    assert points == zero_point


@pytest.mark.parametrize(
    ("constants", "nodes", "why"),
    [
        ("float[4, 2] s = {1, 2, 3, 4, 5, 6, 7, 8}", "v = Mul (c, s)", "scaled in a way"),
        ("float[1, 1, 1] s = {1}", "v = Mul (c, s)", "scaled in a way"),
        (
            "float[2] s = {1, 2}, float[4, 1] z = {1, 2, 3, 4}",
            "d = Sub (c, z) v = Mul (d, s)",
            "differ in axis",
        ),
    ],
)
def test_other_arithmetic_on_integers_is_refused(constants: str, nodes: str, why: str) -> None:
    assert why in refused(model(WRITTEN_OUT % (constants, nodes)))["w"]


@pytest.mark.parametrize(
    ("constants", "nodes"),
    [
        ("float s = {0.5}, float z = {0.5}", "d = Sub (c, z) v = Mul (d, s)"),
        ("float s = {0.5}", "d = Mul (c, x) v = Mul (d, s)"),
        ("float s = {0.5}", "d = Sub (s, c) v = Mul (d, s)"),
        (
            "float[2, 2] s = {1, 2, 3, 4}, int32[4] i = {0, 1, 0, 1}",
            "r = Gather (s, i) v = Mul (c, r)",
        ),
    ],
)
def test_integers_that_are_computed_with_are_no_weight(constants: str, nodes: str) -> None:
    assert list(weights(model(WRITTEN_OUT % (constants, nodes)))) == []
