from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from affine_graphs import BN, IMAGE, NORM, graph
from before_after import apply
from seeded import check_ops, seeded

from passes.cleanup import fold_affine

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


@pytest.mark.parametrize(("inputs", "body", "left"), BEHIND.values(), ids=BEHIND)
def test_what_follows_is_folded(inputs: str, body: str, left: list[str]) -> None:
    check_ops(fold_affine.rewrites, graph(inputs, body), left, rtol=2e-4)


@pytest.mark.parametrize(("inputs", "body", "left"), BEFORE.values(), ids=BEFORE)
def test_what_precedes_is_folded(inputs: str, body: str, left: list[str]) -> None:
    check_ops(fold_affine.rewrites, graph(inputs, body), left, rtol=2e-4)


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


def test_onnx_accepts_what_is_left() -> None:
    model = seeded(graph(*BEHIND["Conv and a chain"][:2]))
    apply(fold_affine.rewrites, model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
