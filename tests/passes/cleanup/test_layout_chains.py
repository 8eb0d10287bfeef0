from __future__ import annotations

import pytest
from seeded import check_ops, check_stays

from passes.cleanup import layout_chains

CONSTANTS = """<
  int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] a3 = {3}, int64[1] m1 = {-1},
  int64[2] a02 = {0, 2}, int64[2] a01 = {0, 1}, int64[1] one = {1}, int64[1] two = {2},
  int64[1] far = {9223372036854775807}, int64[2] rows = {-1, 12}, int64[3] cube = {-1, 4, 3},
  int64[3] copies = {0, 4, 3}, int64[2] bad = {0, -1}, int64[2] flat = {0, 12},
  int64[3] moved = {0, 0, -1}
>"""

MERGED = {
    "Transposes": (
        "t = Transpose<perm = [1, 0, 2]>(x)\n y = Transpose<perm = [0, 2, 1]>(t)",
        ["Transpose"],
    ),
    "default Transpose": ("t = Transpose(x)\n y = Transpose<perm = [1, 0, 2]>(t)", ["Transpose"]),
    "Reshapes": ("t = Reshape(x, rows)\n y = Reshape(t, cube)", ["Reshape"]),
    "Reshape copying the same size": ("t = Reshape(x, flat)\n y = Reshape(t, copies)", ["Reshape"]),
    "Flatten, Unsqueeze": ("t = Flatten(x)\n y = Unsqueeze(t, a1)", ["Reshape"]),
    "Unsqueezes": ("t = Unsqueeze(x, a1)\n y = Unsqueeze(t, a02)", ["Unsqueeze"]),
    "Unsqueezes from the back": ("t = Unsqueeze(x, m1)\n y = Unsqueeze(t, a0)", ["Unsqueeze"]),
    "Squeezes": (
        "s = Unsqueeze(x, a02)\n u = Relu(s)\n t = Squeeze(u, a2)\n y = Squeeze(t, a0)",
        ["Unsqueeze", "Relu", "Squeeze"],
    ),
    "Slices": ("t = Slice(x, one, far, a1)\n y = Slice(t, one, two, m1)", ["Slice"]),
    "Slices with steps": (
        "t = Slice(x, a0, far, a1, two)\n y = Slice(t, m1, a0, a2, m1)",
        ["Slice"],
    ),
    "Concats": (
        "t = Concat<axis = 1>(x, x)\n y = Concat<axis = -2>(x, t, x)",
        ["Concat"],
    ),
    "reduced axes come back": (
        "t = ReduceMean<axes = [1], keepdims = 0>(x)\n y = Unsqueeze(t, a1)",
        ["ReduceMean"],
    ),
    "summed axes come back": (
        "t = ReduceSum<keepdims = 0>(x, a1)\n y = Unsqueeze(t, a1)",
        ["ReduceSum"],
    ),
    "kept axes go": (
        "t = ReduceMax<axes = [-1]>(x)\n y = Squeeze(t, a2)",
        ["ReduceMax"],
    ),
}


def graph(body: str, dims: str = "A,B,C") -> str:
    return f"g (float[N,3,4] x) => (float[{dims}] y) {CONSTANTS} {{\n {body}\n}}"


def dims_of(name: str) -> str:
    return {"Unsqueezes": "A,B,C,D,E,F", "Unsqueezes from the back": "A,B,C,D,E"}.get(
        name, "A,B" if name == "kept axes go" else "A,B,C"
    )


@pytest.mark.parametrize("name", MERGED)
def test_two_are_one(name: str) -> None:
    body, left = MERGED[name]
    check_ops(layout_chains.rewrites, graph(body, dims_of(name)), left, room=64)


def test_transposes_that_cancel_go() -> None:
    body = "r = Relu(x)\n t = Transpose<perm = [1, 2, 0]>(r)\n y = Transpose<perm = [2, 0, 1]>(t)"
    check_ops(layout_chains.rewrites, graph(body), ["Relu"])


def test_transposes_that_cancel_go_beside_another_reader() -> None:
    body = """r = Relu(x)
      t = Transpose<perm = [0, 2, 1]>(r)
      u = Transpose<perm = [0, 2, 1]>(t)
      v = Transpose<perm = [0, 2, 1]>(t)
      w = Add(u, v)
      z = Neg(t)
      zt = Transpose<perm = [0, 2, 1]>(z)
      y = Add(w, zt)"""
    left = ["Relu", "Transpose", "Add", "Neg", "Transpose", "Add"]
    check_ops(layout_chains.rewrites, graph(body), left)


def test_old_opsets_keep_settings_in_attributes() -> None:
    text = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[N,3,4] x) => (float[A,B,C,D,E] y) {
      s = Slice<axes = [1], starts = [1], ends = [3]>(x)
      t = Slice<axes = [2], starts = [0], ends = [2]>(s)
      u = Unsqueeze<axes = [0]>(t)
      y = Unsqueeze<axes = [1]>(u)
    }"""
    check_ops(layout_chains.rewrites, text, ["Slice", "Unsqueeze"])


STAYS = {
    "slices along one axis": "t = Slice(x, one, far, a1)\n y = Slice(t, one, two, a1)",
    "a slice that says where to slice": (
        "s = Shape(x)\n p = Slice(s, a0, one, a0)\n y = Slice(x, a0, p, a0)"
    ),
    "another reader": "t = Transpose<perm = [1, 0, 2]>(x)\n u = Transpose<perm = [0, 2, 1]>(t)\n"
    " v = Shape(t)\n y = Expand(u, v)",
    "a copied size that moved": "t = Unsqueeze(x2, a0)\n y = Reshape(t, moved)",
    "concats along other axes": "t = Concat<axis = 1>(x, x)\n y = Concat<axis = 2>(t, t)",
    "other axes come back": "t = ReduceMean<axes = [1], keepdims = 0>(x)\n y = Unsqueeze(t, a2)",
    "two unknown sizes": "t = Unsqueeze(x2, a0)\n y = Reshape(t, in_s)",
}


@pytest.mark.parametrize("name", STAYS)
def test_nothing_is_to_be_done(name: str) -> None:
    body = STAYS[name]
    if "x2" in body:
        text = f"g (float[N,M,4] x2, int64[3] in_s) => (float[A,B,C] y) {CONSTANTS} {{\n {body}\n}}"
    else:
        text = graph(body)
    assert check_stays(layout_chains.rewrites, text) == []


def test_bodies_and_functions_are_covered() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,3,4] x, bool in_c) => (float[A,B,C] y) {
      y = If (in_c) <
        then_branch = a () => (float[A,B,C] p) {
          t = Transpose<perm = [1, 0, 2]>(x)
          p = Transpose<perm = [0, 2, 1]>(t)
        },
        else_branch = b () => (float[A,B,C] q) { q = local.turn(x) }
      >
    }
    <domain: "local", opset_import: ["" : 17]>
    turn (x) => (y) {
      t = Transpose<perm = [1, 0, 2]>(x)
      y = Transpose<perm = [0, 2, 1]>(t)
    }"""
    check_ops(layout_chains.rewrites, text, ["If", "Transpose", "turn", "Transpose"])
