from __future__ import annotations

import numpy as np
import pytest
from seeded import check_ops, check_stays

from passes.cleanup import elementwise_chains

CONSTANTS = """<
  float zero = {0}, float one = {1}, float half = {0.5}, float minus = {-1}, float two = {2},
  float[4] row = {1, 2, 3, 4}, float[3,1] column = {1, 2, 3}, float magic = {12582912},
  float back = {-12582912}, float tiny = {1e-30}
>"""

MERGED = {
    "Relu, Relu": ("r = Relu(x)\n y = Relu(r)", ["Relu"]),
    "Floor, Floor": ("r = Floor(x)\n y = Floor(r)", ["Floor"]),
    "Relu behind Sigmoid": ("r = Sigmoid(x)\n y = Relu(r)", ["Sigmoid"]),
    "Relu, Clip": ("r = Relu(x)\n y = Clip(r, minus, half)", ["Clip"]),
    "Clip, Relu": ("r = Clip(x, minus, one)\n y = Relu(r)", ["Clip"]),
    "Clip from 0, Relu": ("r = Clip(x, zero)\n y = Relu(r)", ["Relu"]),
    "Clips": ("r = Clip(x, minus, one)\n y = Clip(r, half, two)", ["Clip"]),
    "Clips apart": ("r = Clip(x, minus, half)\n y = Clip(r, one, two)", ["Clip"]),
    "Clip above, Clip below": ('r = Clip(x, "", half)\n y = Clip(r, minus)', ["Clip"]),
    "Casts": ("r = Cast<to = 11>(x)\n s = Cast<to = 7>(r)\n y = Cast<to = 1>(s)", ["Cast", "Cast"]),
    "Muls": ("r = Mul(x, row)\n y = Mul(two, r)", ["Mul"]),
    "Mul, Div": ("r = Mul(x, two)\n y = Div(r, row)", ["Mul"]),
    "Adds": ("r = Add(x, row)\n y = Add(r, one)", ["Add"]),
    "Sub, Add": ("r = Sub(x, two)\n y = Add(r, half)", ["Add"]),
}


def graph(body: str) -> str:
    body = body.replace('""', "")
    return f"g (float[N,3,4] x) => (float[A,B,C] y) {CONSTANTS} {{\n {body}\n}}"


@pytest.mark.parametrize(("body", "left"), MERGED.values(), ids=MERGED)
def test_two_are_one(body: str, left: list[str]) -> None:
    check_ops(elementwise_chains.rewrites, graph(body), left)


def test_a_cast_there_and_back_goes() -> None:
    body = "s = Neg(x)\n r = Cast<to = 11>(s)\n y = Cast<to = 1>(r)"
    check_ops(elementwise_chains.rewrites, graph(body), ["Neg"])


def test_inverses_cancel() -> None:
    body = "s = Relu(x)\n r = Neg(s)\n t = Neg(r)\n y = Neg(t)"
    check_ops(elementwise_chains.rewrites, graph(body), ["Relu", "Neg"])


def test_clips_of_old_opsets_have_attributes() -> None:
    text = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[N,3,4] x) => (float[A,B,C] y) {
      r = Clip<min = -1.0>(x)
      s = Relu(r)
      y = Clip<min = -2.0, max = 0.5>(s)
    }"""
    check_ops(elementwise_chains.rewrites, text, ["Clip"])


def test_casts_of_narrow_integers_widen_once() -> None:
    text = """g (int8[N,4] x) => (double[A,B] y) {
      t = Cast<to = 10>(x)
      u = Cast<to = 1>(t)
      y = Cast<to = 11>(u)
    }"""
    check_ops(elementwise_chains.rewrites, text, ["Cast"])


STAYS = {
    "a cast that rounds": "r = Cast<to = 6>(x)\n y = Cast<to = 1>(r)",
    "a cast that is narrower": "r = Cast<to = 10>(x)\n y = Cast<to = 1>(r)",
    "rounding by a large number": "r = Add(x, magic)\n y = Sub(r, magic)",
    "rounding by its negative": "r = Add(x, magic)\n y = Add(r, back)",
    "a larger constant": "r = Mul(x, row)\n y = Mul(r, column)",
    "a product out of range": "r = Mul(x, tiny)\n y = Mul(r, tiny)",
    "another reader": "r = Mul(x, two)\n s = Mul(r, two)\n y = Add(r, s)",
    "a quotient from the left": "r = Div(two, x)\n y = Div(r, two)",
    "a bound that is computed": "r = ReduceMax<keepdims = 0>(x)\n s = Clip(x, r)\n y = Relu(s)",
}


@pytest.mark.parametrize("body", STAYS.values(), ids=STAYS)
def test_nothing_is_to_be_done(body: str) -> None:
    text = graph(body)
    if "Div(two, x)" in body:
        assert check_stays(elementwise_chains.rewrites, text, {"x": np.ones((3, 3, 4))}) == []
    else:
        assert check_stays(elementwise_chains.rewrites, text) == []
