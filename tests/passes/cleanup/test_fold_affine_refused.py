from __future__ import annotations

import numpy as np
import pytest
from affine_graphs import BN, IMAGE, NORM, graph
from before_after import apply
from seeded import check_stays, ops, seeded

from passes.cleanup import fold_affine

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
