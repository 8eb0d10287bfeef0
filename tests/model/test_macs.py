from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.model.macs import Macs, count_macs

HEAD = '<ir_version: 10, opset_import: ["": 20]>'
CONTRIB = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'


def counted(text: str, head: str = HEAD, dims: dict[str, int] | None = None) -> Macs:
    return count_macs(ir.from_onnx_text(head + text), dims)


@pytest.mark.parametrize(
    ("graph", "macs"),
    [
        pytest.param(
            "g (float[N,4,9,11] x, float[8,4,3,3] w) => (float[N,8,a,b] y) { y = Conv(x, w) }",
            8 * 7 * 9 * (4 * 3 * 3),
            id="Conv",
        ),
        pytest.param(
            """g (float[N,4,9,11] x, float[8,2,3,3] w) => (y)
            { y = Conv<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w) }""",
            8 * 5 * 6 * (2 * 3 * 3),
            id="Conv, groups, strides, pads",
        ),
        pytest.param(
            "g (float[N,4,9,9] x, float[4,1,3,3] w) => (y) "
            "{ y = Conv<group=4, dilations=[2,3]>(x, w) }",
            4 * 5 * 3 * (1 * 3 * 3),
            id="Conv, depthwise, dilations",
        ),
        pytest.param(
            "g (float[N,3,10] x, float[5,3,4] w, float[5] b) => (y) { y = Conv(x, w, b) }",
            5 * 7 * (3 * 4),
            id="Conv of one dimension, the bias is not counted",
        ),
        pytest.param(
            "g (float[2,3,10] x, float[5,3,4] w) => (y) { y = Conv(x, w) }",
            2 * 5 * 7 * (3 * 4),
            id="a fixed batch counts as it runs",
        ),
        pytest.param(
            """g (float[N,6,5,5] x, float[6,4,3,3] w) => (y)
            { y = ConvTranspose<group=2, strides=[2,2]>(x, w) }""",
            6 * 5 * 5 * (4 * 3 * 3),
            id="ConvTranspose",
        ),
        pytest.param(
            "g (float[N,7] x, float[5,7] w) => (y) { y = Gemm<transB=1>(x, w) }", 7 * 5, id="Gemm"
        ),
        pytest.param(
            "g (float[7,3] x, float[7,5] w) => (y) { y = Gemm<transA=1>(x, w) }",
            3 * 7 * 5,
            id="Gemm, transA",
        ),
        pytest.param(
            "g (float[N,2,3,4] x, float[2,4,5] w) => (y) { y = MatMul(x, w) }",
            2 * 3 * 4 * 5,
            id="batched MatMul",
        ),
        pytest.param(
            "g (float[4] x, float[4] w) => (y) { y = MatMul(x, w) }", 4, id="inner product"
        ),
        pytest.param(
            "g (float[6,1,3] x, float[2,20,3] w, float[2,20,5] r) => (y, h, c) "
            '{ y, h, c = LSTM<hidden_size=5, direction="bidirectional">(x, w, r) }',
            6 * 2 * 4 * 5 * (3 + 5),
            id="LSTM",
        ),
        pytest.param(
            "g (float[6,1,3] x, float[1,15,3] w, float[1,15,5] r) => (y, h) "
            "{ y, h = GRU<hidden_size=5>(x, w, r) }",
            6 * 3 * 5 * (3 + 5),
            id="GRU",
        ),
        pytest.param(
            "g (float[6,1,3] x, float[1,5,3] w, float[1,5,5] r) => (y, h) "
            "{ y, h = RNN<hidden_size=5>(x, w, r) }",
            6 * 5 * (3 + 5),
            id="RNN",
        ),
        pytest.param(
            "g (float[N,3,4] a, float[4,5] b) => (y) "
            '{ y = Einsum<equation="bij, jk -> bik">(a, b) }',
            3 * 4 * 5,
            id="Einsum",
        ),
        pytest.param(
            "g (float[N,2,3,4] a, float[2,4,5] b) => (y) "
            '{ y = Einsum<equation="...ij,...jk">(a, b) }',
            2 * 3 * 4 * 5,
            id="Einsum, ellipsis",
        ),
        pytest.param(
            'g (float[N,3,4] a) => (y) { y = Einsum<equation="bij->bji">(a) }',
            0,
            id="Einsum that only transposes",
        ),
        pytest.param("g (float[N,3,4] a) => (y) { y = Relu(a) }", 0, id="elementwise"),
    ],
)
def test_operators(graph: str, macs: int) -> None:
    result = counted(graph)
    assert result.total == result.known == macs
    assert result.unknown == ()


@pytest.mark.parametrize("layout", [0, 1])
def test_lstm_counts_the_same_in_both_layouts(layout: int) -> None:
    shape = "[1,6,3]" if layout else "[6,1,3]"
    result = counted(
        f"g (float{shape} x, float[1,20,3] w, float[1,20,5] r) => (y, h, c) "
        f"{{ y, h, c = LSTM<hidden_size=5, layout={layout}>(x, w, r) }}"
    )
    assert result.total == 6 * 4 * 5 * (3 + 5)


def test_attention_of_opset_23_with_a_past() -> None:
    head = '<ir_version: 11, opset_import: ["": 23]>'
    flat = counted(
        "g (float[N,3,16] q, float[N,5,8] k, float[N,5,12] v) => (y) "
        "{ y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) }",
        head,
    )
    # Per query head: head size 16/4, value size 12/2.
    assert flat.total == 4 * 3 * 5 * (4 + 6)
    split = counted(
        "g (float[N,4,3,4] q, float[N,2,5,4] k, float[N,2,5,6] v, float[1,2,7,4] pk, "
        "float[1,2,7,6] pv) => (y) { y = Attention(q, k, v, , pk, pv) }",
        head,
    )
    assert split.total == 4 * 3 * 12 * (4 + 6)


def test_contrib_attention() -> None:
    result = counted(
        "g (float[N,3,8] x, float[8,24] w, float[24] b) => (float[N,3,8] y) "
        "{ y = com.microsoft.Attention<num_heads=2>(x, w, b) }",
        CONTRIB,
    )
    assert result.total == 3 * 8 * 24 + 2 * (3 * 3 * 8)


def test_dynamic_dimensions_are_named_not_guessed() -> None:
    graph = "g (float[N,3,H,W] x, float[8,3,3,3] w) => (y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    result = counted(graph)
    assert result.total is None
    assert result.known == 0
    assert result.unknown == ("Conv_0 (Conv): 'y' has dynamic dimensions",)
    assert counted(graph, dims={"H": 5, "W": 6}).total == 8 * 5 * 6 * 27
    assert counted(graph, dims={"H": 5, "x[3]": 6, "N": 2}).total == 2 * 8 * 5 * 6 * 27
    assert counted(graph, dims={"x[0]": 2, "x[2]": 5, "x[3]": 6}).total == 2 * 8 * 5 * 6 * 27


def test_a_dynamic_dimension_written_as_minus_one_is_a_batch() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[1,7] x, float[7,5] w) => (y) { y = MatMul(x, w) }")
    model.graph.inputs[0].shape = ir.Shape([-1, 7])
    assert count_macs(model).total == 35
    model.graph.inputs[0].shape = ir.Shape([None, 7])
    assert count_macs(model).total == 35


def test_what_is_known_is_counted_beside_what_is_not() -> None:
    result = counted(
        "g (float[N,7] x, float[7,5] w, float[S,T] s) => (y, z) "
        "{ y = MatMul(x, w) z = MatMul(s, s) }"
    )
    assert result.total is None
    assert result.known == 35
    assert len(result.unknown) == 1


def test_an_operator_of_a_foreign_domain_is_not_taken_for_free() -> None:
    head = '<ir_version: 10, opset_import: ["": 20, "lab": 1]>'
    result = counted("g (float[N,7] x) => (y) { y = lab.Mystery(x) }", head)
    assert result.total is None
    assert "lab::Mystery" in result.unknown[0]


def test_an_operator_that_multiplies_and_has_no_rule_is_named() -> None:
    result = counted(
        "g (float[N,3,8] x) => (float[N,3,8] y) { y = com.microsoft.GroupQueryAttention(x) }",
        CONTRIB,
    )
    assert result.total is None
    result = counted("g (float[N,3,8] x) => (float[N,3,8] y) { y = LinearAttention(x, x, x) }")
    assert result.total is None
    result = counted("g (float[N,3,8] x) => (y) { y = com.microsoft.BiasGelu(x, x) }", CONTRIB)
    assert result.total == 0


def test_many_unknowns_are_summarized() -> None:
    nodes = "".join(f"y{i} = MatMul(x, x) " for i in range(50))
    result = counted(f"g (float[A,B,B] x) => (y0) {{ {nodes} }}")
    assert len(result.unknown) == 9
    assert result.unknown[-1] == "and 42 more"


def test_if_counts_its_costlier_branch() -> None:
    result = counted(
        """g (float[N,7] x, bool c, float[7,5] small, float[7,6] big) => (y) {
          y = If(c)<
            then_branch = t () => (float[N,5] a) { a = MatMul(x, small) },
            else_branch = e () => (float[N,6] b) { b = MatMul(x, big) }>
        }"""
    )
    assert result.total == 7 * 6


LOOP = """Loop<body = b (int64 i, bool go, float[4,4] s) => (bool out, float[4,4] t)
          { out = Identity(go) t = MatMul(s, w) }>(n, go, x)"""


def test_loop_counts_its_body_by_the_trip_count() -> None:
    constant = counted(
        f"""g (float[4,4] x, float[4,4] w) => (y) <int64 n = {{3}}, bool go = {{1}}>
        {{ y = {LOOP} }}"""
    )
    assert constant.total == 3 * 4 * 4 * 4
    dynamic = counted(
        f"g (float[4,4] x, float[4,4] w, int64 n) => (y) <bool go = {{1}}> {{ y = {LOOP} }}"
    )
    assert dynamic.total is None
    assert dynamic.known == 4 * 4 * 4
    assert "how often" in dynamic.unknown[0]


def test_scan_counts_its_body_by_the_scanned_axis() -> None:
    result = counted(
        """g (float[4] s0, float[6,4] xs, float[4,4] w) => (s, ys) {
          s, ys = Scan<num_scan_inputs = 1, body =
            b (float[4] a, float[4] x) => (float[4] o, float[4] p) {
              m = MatMul(a, w) o = Add(m, x) p = Identity(o) }>(s0, xs)
        }"""
    )
    assert result.total == 6 * 4 * 4


def test_a_function_counts_at_each_call() -> None:
    result = counted(
        """g (float[N,4] x, float[4,4] w) => (y) { a = lab.f(x, w) y = lab.f(a, w) }
        <domain: "lab", opset_import: ["": 20]> f (p, q) => (r) { r = MatMul(p, q) }""",
        '<ir_version: 10, opset_import: ["": 20, "lab": 1]>',
    )
    assert result.total == 2 * 16


def test_quantized_weights() -> None:
    result = counted(
        """g (float[N,4] x, int8[4,6] w, float s, float[6,5] v) => (y) {
          d = DequantizeLinear(w, s)
          a = MatMul(x, d)
          y = MatMul(a, v)
        }"""
    )
    assert (result.known, result.quantized) == (4 * 6 + 6 * 5, 4 * 6)


def test_quantized_weights_behind_a_transpose() -> None:
    result = counted(
        """g (float[N,4] x, int8[6,4] w, float s) => (y) {
          d = DequantizeLinear(w, s)
          t = Transpose(d)
          y = MatMul(x, t)
        }"""
    )
    assert result.quantized == result.known == 24


def test_integer_operators() -> None:
    result = counted(
        """g (uint8[N,3,5,5] x, float xs, uint8 xz, int8[4,3,3,3] w, float ws, int8 wz,
             float ys, uint8 yz) => (y) { y = QLinearConv(x, xs, xz, w, ws, wz, ys, yz) }"""
    )
    assert result.quantized == result.known == 4 * 3 * 3 * 27
    result = counted(
        """g (uint8[N,4] x, int8[4,6] w) => (y) { y = MatMulInteger(x, w) }""",
    )
    assert result.quantized == result.known == 24
    result = counted(
        """g (float[N,64] x, uint8[6,2,16] w, float[12] s) => (float[N,6] y)
        { y = com.microsoft.MatMulNBits<K=64, N=6, bits=4, block_size=32>(x, w, s) }""",
        CONTRIB,
    )
    assert result.quantized == result.known == 64 * 6


def test_linear_models_of_scikit_learn() -> None:
    head = '<ir_version: 10, opset_import: ["": 20, "ai.onnx.ml": 3]>'
    result = counted(
        """g (float[N,3] x) => (y) { y = ai.onnx.ml.LinearRegressor
        <coefficients = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], targets = 2>(x) }""",
        head,
    )
    assert result.total == 6


def test_ranks_that_do_not_fit_are_a_reason_and_no_crash() -> None:
    result = counted("g (float[3,4] x, float[5,6] w) => (y) { y = LSTM<hidden_size=5>(x, w) }")
    assert result.total is None
    result = counted("g (float x, float[5,6] w) => (y) { y = MatMul(x, w) }")
    assert result.total is None
    result = counted("g (float[2,3,4] x, float[3,4,6] w) => (y) { y = MatMul(x, w) }")
    assert result.total is None


def test_counting_leaves_the_model_alone() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N,7] x, float[7,5] w) => (y) { y = MatMul(x, w) }")
    before = ir.to_proto(model).SerializeToString()
    count_macs(model)
    assert ir.to_proto(model).SerializeToString() == before
