from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import apply, assert_equal_outputs
from seeded import check_ops, check_stays, ops, seeded

from passes.cleanup import fold_affine, folded

IMAGE = "float[N,4,7,6] x"
NORM = "float[6] gain, float[6] shift, float[6] mean, float[6] var"
BN = "y = BatchNormalization(t, gain, shift, mean, var)"

BEHIND = {
    "Conv, BN": (f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}", ["Conv"]),
    "Conv with bias, BN": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, {NORM}",
        f"t = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)\n {BN}",
        ["Conv"],
    ),
    "BN with epsilon": (
        f"{IMAGE}, float[6,4,1,1] w, {NORM}",
        "t = Conv(x, w)\n y = BatchNormalization<epsilon = 0.5>(t, gain, shift, mean, var)",
        ["Conv"],
    ),
    "grouped Conv, BN": (
        f"{IMAGE}, float[6,2,3,3] w, {NORM}",
        f"t = Conv<group = 2>(x, w)\n {BN}",
        ["Conv"],
    ),
    "depthwise Conv, Mul": (
        f"{IMAGE}, float[4,1,3,3] w, float[4] b, float[4,1,1] s",
        "t = Conv<group = 4>(x, w, b)\n y = Mul(t, s)",
        ["Conv"],
    ),
    "Conv 1-D, BN": (f"float[N,4,9] x, float[6,4,3] w, {NORM}", f"t = Conv(x, w)\n {BN}", ["Conv"]),
    "Conv 3-D, BN": (
        f"float[N,4,3,4,5] x, float[6,4,2,2,2] w, {NORM}",
        f"t = Conv(x, w)\n {BN}",
        ["Conv"],
    ),
    "Conv, Mul from the left": (
        f"{IMAGE}, float[6,4,3,3] w, float[1,6,1,1] s",
        "t = Conv(x, w)\n y = Mul(s, t)",
        ["Conv"],
    ),
    "Conv, Mul by a scalar": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float s",
        "t = Conv(x, w, b)\n y = Mul(t, s)",
        ["Conv"],
    ),
    "Conv, Div": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float[6,1,1] var",
        "t = Conv(x, w, b)\n y = Div(t, var)",
        ["Conv"],
    ),
    "Conv, Add": (
        f"{IMAGE}, float[6,4,3,3] w, float[6,1,1] s",
        "t = Conv(x, w)\n y = Add(t, s)",
        ["Conv"],
    ),
    "Conv, Sub": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float[6,1,1] s",
        "t = Conv(x, w, b)\n y = Sub(t, s)",
        ["Conv"],
    ),
    "Conv, Sub from the left": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float[6,1,1] s",
        "t = Conv(x, w, b)\n y = Sub(s, t)",
        ["Conv"],
    ),
    "Conv and a chain": (
        f"{IMAGE}, float[6,4,3,3] w, {NORM}, float[6,1,1] s, float[1,6,1,1] o, float h",
        "t0 = Conv(x, w)\n t1 = Mul(t0, s)\n t2 = Add(t1, o)\n t = Div(t2, h)\n"
        " z = BatchNormalization(t, gain, shift, mean, var)\n y = Relu(z)",
        ["Conv", "Relu"],
    ),
    "Conv with a computed weight, Add": (
        f"{IMAGE}, float[6,4,3,3] in_w, float[6,1,1] s",
        "t = Conv(x, in_w)\n y = Add(t, s)",
        ["Conv"],
    ),
    "ConvTranspose, BN": (
        f"{IMAGE}, float[4,6,3,3] w, {NORM}",
        f"t = ConvTranspose<strides = [2, 2]>(x, w)\n {BN}",
        ["ConvTranspose"],
    ),
    "grouped ConvTranspose, BN": (
        f"{IMAGE}, float[4,3,3,3] w, float[6] b, {NORM}",
        f"t = ConvTranspose<group = 2, strides = [2, 1]>(x, w, b)\n {BN}",
        ["ConvTranspose"],
    ),
    "Gemm, Mul and Add": (
        "float[N,5] x, float[5,6] w, float[6] b, float[6] s, float[1,6] o",
        "t = Gemm(x, w, b)\n t1 = Mul(t, s)\n y = Add(t1, o)",
        ["Gemm"],
    ),
    "Gemm with factors, BN": (
        f"float[5,N] x, float[6,5] w, float[1,6] b, {NORM}",
        f"t = Gemm<alpha = 0.5, beta = 2.0, transA = 1, transB = 1>(x, w, b)\n {BN}",
        ["Gemm"],
    ),
    "Gemm without C, Add": (
        "float[N,5] x, float[5,6] w, float[6] o",
        "t = Gemm<beta = 3.0>(x, w)\n y = Add(t, o)",
        ["Gemm"],
    ),
    "MatMul, Mul": (
        "float[N,2,5] x, float[5,6] w, float[6] s",
        "t = MatMul(x, w)\n y = Mul(t, s)",
        ["MatMul"],
    ),
    "batched MatMul, Mul": (
        "float[N,2,5] x, float[3,5,6] w, float[1,6] s",
        "t = MatMul(x, w)\n y = Mul(t, s)",
        ["MatMul"],
    ),
    "MatMul, Add, Mul": (
        "float[N,2,5] x, float[5,6] w, float[6] b, float[1,1,6] s, float[6] o",
        "t = MatMul(x, w)\n t1 = Add(b, t)\n t2 = Mul(t1, s)\n y = Sub(t2, o)",
        ["MatMul", "Add"],
    ),
    "MatMul with the weight on the left, Mul": (
        "float[N,5,2] x, float[6,5] w, float[6,1] s",
        "t = MatMul(w, x)\n y = Mul(t, s)",
        ["MatMul"],
    ),
    "BN, Mul, Add": (
        "float[N,6,4] x, float[6] gain, float[6] shift, float[6] mean, float[6] var,"
        " float[6,1] s, float[6,1] o",
        "t = BatchNormalization(x, gain, shift, mean, var)\n u = Mul(t, s)\n y = Add(u, o)",
        ["BatchNormalization"],
    ),
    "LayerNormalization, Mul, Add": (
        "float[N,4,6] x, float[6] gain, float[6] s, float[6] o",
        "t = LayerNormalization(x, gain)\n u = Mul(t, s)\n y = Add(u, o)",
        ["LayerNormalization"],
    ),
}

BEFORE = {
    "BN, Conv": (
        "float[N,6,7,6] x, float[4,6,3,3] w, float[4] b, " + NORM,
        "t = BatchNormalization(x, gain, shift, mean, var)\n y = Conv(t, w, b)",
        ["Conv"],
    ),
    "Mul, padded Conv": (
        f"{IMAGE}, float[6,4,3,3] w, float[4,1,1] s",
        "t = Mul(x, s)\n y = Conv<pads = [1, 1, 1, 1]>(t, w)",
        ["Conv"],
    ),
    "Div by a scalar, Conv": (
        f"{IMAGE}, float[6,4,3,3] w, float six",
        't = Div(x, six)\n y = Conv<auto_pad = "SAME_UPPER">(t, w)',
        ["Conv"],
    ),
    "Mul and Add, grouped Conv": (
        f"{IMAGE}, float[6,2,3,3] w, float[6] b, float[4,1,1] s, float[4,1,1] o",
        "t = Mul(x, s)\n u = Add(t, o)\n y = Conv<group = 2, dilations = [2, 1]>(u, w, b)",
        ["Conv"],
    ),
    "Sub from the left, valid Conv": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float[4,1,1] o",
        't = Sub(o, x)\n y = Conv<auto_pad = "VALID">(t, w, b)',
        ["Conv"],
    ),
    "Mul, grouped ConvTranspose": (
        f"{IMAGE}, float[4,3,3,3] w, float[4,1,1] s",
        "t = Mul(x, s)\n y = ConvTranspose<group = 2>(t, w)",
        ["ConvTranspose"],
    ),
    "Mul and Add, Gemm": (
        "float[N,5] x, float[6,5] w, float[6] b, float[5] s, float[5] o",
        "t = Mul(x, s)\n u = Add(t, o)\n y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(u, w, b)",
        ["Gemm"],
    ),
    "BN, Gemm": (
        f"float[N,6] x, float[6,5] w, float[5] b, {NORM}",
        "t = BatchNormalization(x, gain, shift, mean, var)\n y = Gemm(t, w, b)",
        ["Gemm"],
    ),
    "Mul, MatMul": (
        "float[N,2,5] x, float[5,6] w, float[5] s",
        "t = Mul(x, s)\n y = MatMul(t, w)",
        ["MatMul"],
    ),
    "Add, MatMul with bias": (
        "float[N,2,5] x, float[5,6] w, float[6] b, float[5] o",
        "t = Add(x, o)\n u = MatMul(t, w)\n y = Add(u, b)",
        ["MatMul", "Add"],
    ),
}

OUT = "float[A,B,C,D] y"


def graph(inputs: str, body: str) -> str:
    ranks = {"Gemm": 2, "MatMul": 3, "Layer": 3}
    of_data = inputs.partition("]")[0].count(",") + 1
    found = next((rank for name, rank in ranks.items() if name in body), of_data)
    dims = ",".join("ABCDE"[:found])
    return f"g ({inputs}) => (float[{dims}] y) {{\n {body}\n}}"


@pytest.mark.parametrize(("inputs", "body", "left"), BEHIND.values(), ids=BEHIND)
def test_what_follows_is_folded(inputs: str, body: str, left: list[str]) -> None:
    check_ops(fold_affine.rewrites, graph(inputs, body), left, rtol=2e-4)


@pytest.mark.parametrize(("inputs", "body", "left"), BEFORE.values(), ids=BEFORE)
def test_what_precedes_is_folded(inputs: str, body: str, left: list[str]) -> None:
    check_ops(fold_affine.rewrites, graph(inputs, body), left, rtol=2e-4)


STAYS = {
    "shift before padding": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] b, float[4,1,1] o",
        "t = Add(x, o)\n y = Conv<pads = [1, 1, 1, 1]>(t, w, b)",
        "because of padding",
    ),
    "shift before ConvTranspose": (
        f"{IMAGE}, float[4,6,3,3] w, float[6] b, float[4,1,1] o",
        "t = Add(x, o)\n y = ConvTranspose(t, w, b)",
        "unevenly",
    ),
    "shared weight": (
        f"{IMAGE}, float[4,4,1,1] w, float[4] b, float[4,1,1] s",
        "t = Conv(x, w, b)\n u = Mul(t, s)\n v = Relu(u)\n y = Conv(v, w, b)",
        "would grow",
    ),
    "weight from outside": (
        f"{IMAGE}, float[6,4,3,3] in_w, {NORM}",
        f"t = Conv(x, in_w)\n {BN}",
        "weight is not constant",
    ),
    "bias from outside": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] in_b, {NORM}",
        f"t = Conv(x, w, in_b)\n {BN}",
        "bias is not constant",
    ),
    "statistics from outside": (
        f"{IMAGE}, float[6,4,3,3] w, float[6] gain, float[6] shift, float[6] in_mean, float[6] var",
        "t = Conv(x, w)\n y = BatchNormalization(t, gain, shift, in_mean, var)",
        "not all constant",
    ),
    "quantized weight": (
        f"{IMAGE}, uint8[6,4,3,3] q, float scale, uint8 zero, float[6,1,1] s",
        "w = DequantizeLinear(q, scale, zero)\n t = Conv(x, w)\n y = Mul(t, s)",
        "quantized",
    ),
    "bias of a matrix": (
        "float[3,5] x, float[5,6] w, float[3,6] b, float[6] s",
        "t = Gemm(x, w, b)\n y = Mul(t, s)",
        "not one number per channel",
    ),
    "Add without a bias would grow": (
        "float[N,2,3,3] x, float[600,2,1,1] w, float s",
        "t = Conv(x, w)\n y = Add(t, s)",
        "would grow",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "reason"), STAYS.values(), ids=STAYS)
def test_a_refusal_says_why(inputs: str, body: str, reason: str) -> None:
    (declined,) = check_stays(fold_affine.rewrites, graph(inputs, body))
    assert reason in declined.why


NOTHING = {
    "constant along space": (
        f"{IMAGE}, float[6,4,3,3] w, float[5,4] s",
        "t = Conv(x, w)\n y = Mul(t, s)",
    ),
    "constant along the batch": (
        f"{IMAGE}, float[6,4,3,3] w, float[3,1,1,1] s",
        "t = Conv(x, w)\n y = Mul(t, s)",
    ),
    "divided by a zero": (
        f"{IMAGE}, float[6,4,3,3] w, float[6,1,1] nil",
        "t = Conv(x, w)\n y = Div(t, nil)",
    ),
    "a constant divided": (
        f"{IMAGE}, float[6,4,3,3] w, float[6,1,1] s",
        "t = Conv(x, w)\n y = Div(s, t)",
    ),
    "read twice": (
        f"{IMAGE}, float[4,4,1,1] w, float[4,1,1] s",
        "t = Conv(x, w)\n u = Mul(t, s)\n y = Add(u, t)",
    ),
    "integers": (
        "int32[N,2,5] x, int32[5,6] w, int32[6] s",
        "t = MatMul(x, w)\n z = Mul(t, s)\n y = Cast<to = 1>(z)",
    ),
    "MatMul and a shift": (
        "float[N,2,5] x, float[5,6] w, float[6] o",
        "t = MatMul(x, w)\n y = Add(t, o)",
    ),
    "a channel that is spread": (
        "float[N,1,7,6] x, float[6,4,3,3] w, float[4,1,1] s",
        "t = Mul(x, s)\n y = Conv(t, w)",
    ),
}


@pytest.mark.parametrize(("inputs", "body"), NOTHING.values(), ids=NOTHING)
def test_what_does_not_lie_along_channels_stays(inputs: str, body: str) -> None:
    given = {"nil": np.zeros((6, 1, 1))}
    assert check_stays(fold_affine.rewrites, graph(inputs, body), given) == []


def test_a_constant_of_higher_rank_stays() -> None:
    text = """g (float[N,4,7,6] x, float[6,4,3,3] w, float[1,1,1,1,1] s) => (float[A,B,C,D,E] y) {
      t = Conv(x, w)
      y = Mul(t, s)
    }"""
    assert check_stays(fold_affine.rewrites, text) == []


def test_a_returned_intermediate_stays() -> None:
    text = """g (float[N,4,7,6] x, float[6,4,3,3] w, float[6,1,1] s)
        => (float[A,B,C,D] y, float[A,B,C,D] t) {
      t = Conv(x, w)
      y = Mul(t, s)
    }"""
    assert check_stays(fold_affine.rewrites, text) == []


def test_an_overridable_weight_stays() -> None:
    model = seeded(graph(f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}"))
    model.graph.inputs.append(model.graph.initializers["w"])
    (declined,) = apply(fold_affine.rewrites, model)
    assert "weight is not constant" in declined.why
    assert ops(model) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize(
    ("opset", "settings", "outputs", "reason"),
    [
        (15, "<training_mode = 1>", "y, m, v", "statistics are read"),
        (15, "<training_mode = 1>", "y", "training mode"),
        (8, "<spatial = 0>", "y", "every element apart"),
        (6, "", "y", "is_test"),
    ],
)
def test_a_batch_normalization_that_trains_stays(
    opset: int, settings: str, outputs: str, reason: str
) -> None:
    extra = ", float[6] m, float[6] v" if "m" in outputs else ""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({IMAGE}, float[6,4,3,3] w, {NORM}) => (float[A,B,C,D] y{extra}) {{
      t = Conv(x, w)
      {outputs} = BatchNormalization{settings}(t, gain, shift, mean, var)
    }}"""
    (declined,) = check_stays(fold_affine.rewrites, text)
    assert reason in declined.why


@pytest.mark.parametrize("opset", [7, 9, 13, 20])
def test_opsets_of_batch_normalization(opset: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({IMAGE}, float[6,4,3,3] w, {NORM}) => (float[A,B,C,D] y) {{ t = Conv(x, w)\n {BN} }}"""
    check_ops(fold_affine.rewrites, text, ["Conv"], rtol=2e-4)


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e5, "leave the range"), (1e-6, "leave the range"), (0.5, None)]
)
def test_float16_is_folded_within_its_range(factor: float, reason: str | None) -> None:
    text = """g (float16[N,4,7,6] x, float16[6,4,1,1] w, float16[6] gain, float16[6] shift,
        float16[6] mean, float16[6] var) => (float16[A,B,C,D] y) {
      t = Conv(x, w)
      y = BatchNormalization<epsilon = 0.0>(t, gain, shift, mean, var)
    }"""
    gain = np.full(6, min(factor, 6e4), np.float16)
    given = {
        "gain": gain,
        "w": np.full((6, 4, 1, 1), 3 if factor > 1 else 0.1),
        "mean": np.zeros(6),
        "shift": np.full(6, 10),
    }
    if reason is None:
        check_ops(fold_affine.rewrites, text, ["Conv"], given, rtol=1e-2)
    else:
        (declined,) = check_stays(fold_affine.rewrites, text, given)
        assert reason in declined.why


def test_bfloat16_keeps_its_type() -> None:
    bfloat16 = ir.DataType.BFLOAT16.numpy()
    weights = np.array([1, 2, 3, 4, 5, 6, 7, 8]).astype(bfloat16).reshape(2, 4, 1, 1)
    factors = np.array([2, 4]).astype(bfloat16).reshape(2, 1, 1)
    text = """<ir_version: 10, opset_import: ["" : 22]>
    g (bfloat16[N,4,7,6] x, bfloat16[2,4,1,1] w, bfloat16[2,1,1] s) => (bfloat16[A,B,C,D] y) {
      t = Conv(x, w)
      y = Mul(t, s)
    }"""
    model = seeded(text, {"w": weights, "s": factors})
    apply(fold_affine.rewrites, model)
    weight = model.graph.initializers["w"].const_value
    assert ops(model) == ["Conv"]
    assert weight is not None
    assert weight.dtype == ir.DataType.BFLOAT16
    assert weight.numpy().astype(np.float32).ravel().tolist() == [2, 4, 6, 8, 20, 24, 28, 32]


def test_names_of_weights_stay_and_constants_go() -> None:
    inputs = f"{IMAGE}, float[6,4,3,3] w, float[6] b, {NORM}"
    model = check_ops(
        fold_affine.rewrites, graph(inputs, f"t = Conv(x, w, b)\n {BN}"), ["Conv"], rtol=2e-4
    )
    assert sorted(model.graph.initializers) == ["b", "w"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_bodies_are_folded() -> None:
    text = f"""g ({IMAGE}, bool in_c, float[4,4,1,1] w, float[4,1,1] s, float[4,1,1] o)
        => (float[A,B,C,D] y) {{
      y = If (in_c) <
        then_branch = a () => (float[A,B,C,D] p) {{
          t = Conv(x, w)
          p = Mul(t, s)
        }},
        else_branch = b () => (float[A,B,C,D] q) {{
          q = Add(x, o)
        }}
      >
    }}"""
    model = check_ops(fold_affine.rewrites, text, ["If", "Conv", "Add"], rtol=2e-4)
    assert set(model.graph.initializers) == {"w", "o"}


def test_functions_are_folded() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,2,3,3] x) => (float[A,B,C,D] y) { y = local.block(x) }
    <domain: "local", opset_import: ["" : 17]>
    block (x) => (y) {
      w = Constant<value = float[2,2,1,1] {1, 2, 3, 4}>()
      s = Constant<value = float[2,1,1] {10, 100}>()
      t = Conv(x, w)
      y = Mul(t, s)
    }"""
    model = check_ops(fold_affine.rewrites, text, ["block", "Conv"])
    (function,) = model.functions.values()
    weights = [n.attributes["value"].value.numpy() for n in function if n.op_type == "Constant"]
    assert [weight.ravel().tolist() for weight in weights] == [[10, 20, 300, 400]]


def test_large_weights_are_computed_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_LAZY_BYTES", 0)
    model = seeded(graph(f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}"))
    before = ir.to_proto(model)
    apply(fold_affine.rewrites, model)
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)
    assert_equal_outputs(before, ir.to_proto(model), rtol=2e-4)


def test_a_rewrite_that_is_not_applied_changes_nothing() -> None:
    model = seeded(graph(f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert len(list(fold_affine.rewrites(model))) == 1
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_dead_channel_does_not_keep_its_normalization() -> None:
    """Training drives some gains to 1e-40: the channel is its shift, whatever the weight is."""
    inputs = f"{IMAGE}, float[6,4,3,3] w, {NORM}"
    given = {"gain": np.array([1, 1, 1e-40, 1, 1, 1])}
    check_ops(
        fold_affine.rewrites, graph(inputs, f"t = Conv(x, w)\n {BN}"), ["Conv"], given, rtol=2e-4
    )


def test_onnx_accepts_what_is_left() -> None:
    model = seeded(graph(*BEHIND["Conv and a chain"][:2]))
    apply(fold_affine.rewrites, model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
