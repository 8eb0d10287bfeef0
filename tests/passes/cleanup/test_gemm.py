from __future__ import annotations

import pytest
from seeded import check_ops, check_stays

from passes.cleanup import gemm, pads

MERGED = {
    "MatMul, Add": (
        "float[N,5] x, float[5,6] w, float[6] b",
        "t = MatMul(x, w)\n y = Add(t, b)",
        ["Gemm"],
    ),
    "MatMul, Add from the left": (
        "float[N,5] x, float[5,6] w, float[1,6] b",
        "t = MatMul(x, w)\n y = Add(b, t)",
        ["Gemm"],
    ),
    "MatMul, residual Add": (
        "float[N,5] x, float[5,6] w, float[N,6] in_r",
        "t = MatMul(x, w)\n y = Add(t, in_r)",
        ["Gemm"],
    ),
    "computed matrices": (
        "float[N,5] x, float[5,6] in_w, float in_b",
        "t = MatMul(x, in_w)\n y = Add(t, in_b)",
        ["Gemm"],
    ),
    "Transpose, Gemm": (
        "float[5,N] x, float[5,6] w, float[6] b",
        "t = Transpose<perm = [1, 0]>(x)\n y = Gemm(t, w, b)",
        ["Gemm"],
    ),
    "Transpose, transposing Gemm": (
        "float[N,5] x, float[5,6] w, float[6] b",
        "t = Transpose(x)\n y = Gemm<transA = 1, alpha = 0.5>(t, w, b)",
        ["Gemm"],
    ),
    "Transpose, MatMul, Add": (
        "float[N,5] x, float[6,5] in_w, float[6] b",
        "t = Transpose(in_w)\n u = MatMul(x, t)\n y = Add(u, b)",
        ["Gemm"],
    ),
}
STAYS = {
    "more axes": ("float[N,2,5] x, float[5,6] w, float[6] b", "t = MatMul(x, w)\n y = Add(t, b)"),
    "a bias that spreads": (
        "float[1,5] x, float[5,6] w, float[3,6] b",
        "t = MatMul(x, w)\n y = Add(t, b)",
    ),
    "a bias of higher rank": (
        "float[N,5] x, float[5,6] w, float[1,1,6] b",
        "t = MatMul(x, w)\n y = Add(t, b)",
    ),
    "unlike symbols": (
        "float[N,5] x, float[5,6] w, float[M,6] in_b",
        "t = MatMul(x, w)\n y = Add(t, in_b)",
    ),
    "integers": ("int32[N,5] x, int32[5,6] w, int32[6] b", "t = MatMul(x, w)\n y = Add(t, b)"),
    "quantized": (
        "float[N,5] x, uint8[5,6] q, float s, float[6] b",
        "w = DequantizeLinear(q, s)\n t = MatMul(x, w)\n y = Add(t, b)",
    ),
    "another reader": (
        "float[N,6] x, float[6,6] w, float[6] b",
        "t = MatMul(x, w)\n u = Add(t, b)\n y = Mul(t, u)",
    ),
}


def graph(inputs: str, body: str, kind: str = "float[A,B]") -> str:
    return f"g ({inputs}) => ({kind} y) {{\n {body}\n}}"


@pytest.mark.parametrize(("inputs", "body", "left"), MERGED.values(), ids=MERGED)
def test_a_gemm_does_it_all(inputs: str, body: str, left: list[str]) -> None:
    check_ops(gemm.rewrites, graph(inputs, body), left, rtol=1e-4)


@pytest.mark.parametrize("name", STAYS)
def test_no_gemm(name: str) -> None:
    kinds = {
        "more axes": "float[A,B,C]",
        "a bias of higher rank": "float[A,B,C]",
        "integers": "int32[A,B]",
    }
    text = graph(*STAYS[name], kinds.get(name, "float[A,B]"))
    assert check_stays(gemm.rewrites, text) == []


PADDED = {
    "Pad, Conv": ("p = Pad(x, spatial)\n y = Conv<pads = [1, 0, 0, 1]>(p, w)", ["Conv"]),
    "Pad of some axes": ("p = Pad(x, some, nil, axes)\n y = Conv(p, w)", ["Conv"]),
    "Pad, valid Conv": ('p = Pad(x, spatial)\n y = Conv<auto_pad = "VALID">(p, w)', ["Conv"]),
}
NOT_PADDED = {
    "channels": "p = Pad(x, channels)\n y = Conv(p, w5)",
    "ones": "p = Pad(x, spatial, one)\n y = Conv(p, w)",
    "reflection": 'p = Pad<mode = "reflect">(x, spatial)\n y = Conv(p, w)',
    "cropping": "p = Pad(x, cropped)\n y = Conv(p, w)",
    "padding by itself": 'p = Pad(x, spatial)\n y = Conv<auto_pad = "SAME_UPPER">(p, w)',
}
PADS = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N,4,5,6] x, float[3,4,3,3] w, float[3,5,3,3] w5) => (float[A,B,C,D] y)
<int64[8] spatial = {0, 0, 1, 2, 0, 0, 0, 1}, int64[8] channels = {0, 1, 0, 0, 0, 0, 0, 0},
 int64[8] cropped = {0, 0, -1, 0, 0, 0, 0, 0}, int64[4] some = {1, 0, 2, 1},
 int64[2] axes = {-1, 2}, float nil = {0}, float one = {1}> """


@pytest.mark.parametrize(("body", "left"), PADDED.values(), ids=PADDED)
def test_padding_moves_into_the_conv(body: str, left: list[str]) -> None:
    check_ops(pads.rewrites, f"{PADS} {{ {body} }}", left, rtol=1e-4)


@pytest.mark.parametrize("body", NOT_PADDED.values(), ids=NOT_PADDED)
def test_other_padding_stays(body: str) -> None:
    assert check_stays(pads.rewrites, f"{PADS} {{ {body} }}") == []
