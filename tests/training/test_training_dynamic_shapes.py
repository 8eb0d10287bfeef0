"""Shape arithmetic as exporters write it keeps dynamic sizes in torch.export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from against_onnx_runtime import expected, model_of, same

from graphopt.training import OnnxModule

DYNAMIC = torch.export.Dim.DYNAMIC
Sizes = tuple[int, ...]

_SIZES = """
    s = Shape(x) i0 = Constant<value_int=0>() i1 = Constant<value_int=1>()
    m1 = Constant<value_int=-1>() first = Constant<value_ints=[0]>()
    second = Constant<value_ints=[1]>() b = Gather(s, i0) t = Gather(s, i1)
    bb = Unsqueeze(b, first) tt = Unsqueeze(t, first)
"""

IDIOMS = {
    "split heads": """y (float) {SIZES
        h = Constant<value_ints=[3, 4]>() sh = Concat<axis=0>(bb, tt, h) r = Reshape(x, sh)
        y = Transpose<perm=[0,2,1,3]>(r)""",
    "join heads": """y (float) {SIZES
        h = Constant<value_ints=[0, -1, 3, 4]>() r = Reshape(x, h)
        f = Constant<value_ints=[-1]>() sh = Concat<axis=0>(bb, tt, f) y = Reshape(r, sh)""",
    "product of sizes": """y (float) {SIZES
        n = Mul(b, t) nn = Unsqueeze(n, first) w = Constant<value_ints=[12]>()
        sh = Concat<axis=0>(nn, w) y = Reshape(x, sh)""",
    "broadcast by where": """y (float) {SIZES
        e = Constant<value_ints=[-1, -1, 12]>() n = Shape(e)
        o = ConstantOfShape<value = int64[1] {1}>(n) m = Mul(o, m1) c = Equal(e, m)
        g = Constant<value = float[1,1,12] {1,2,3,4,5,6,7,8,9,10,11,12}>()
        given = Where(c, s, e) y = Expand(g, given)""",
    "broadcast by where of a computed shape": """y (float) {SIZES
        n = Shape(s) o = ConstantOfShape<value = int64[1] {1}>(n) m = Mul(o, m1)
        c = Equal(s, m) given = Where(c, o, s)
        g = Constant<value = float[1,1,12] {1,2,3,4,5,6,7,8,9,10,11,12}>()
        y = Expand(g, given)""",
    "slice of a table": """y (int64) {SIZES
        size = Constant<value_int=64>() table = Range(i0, size, i1)
        u = Unsqueeze(table, first) y = Slice(u, first, tt, second)""",
    "position ids": """y (int64) {SIZES
        r = Range(i0, t, i1) u = Unsqueeze(r, first) y = Expand(u, two)""",
    "causal mask": """y (float) {SIZES
        sq = Concat<axis=0>(tt, tt) f = ConstantOfShape<value = float[1] {-9.0}>(sq)
        u = Trilu<upper=1>(f, i1) ax = Constant<value_ints=[0,1]>() v = Unsqueeze(u, ax)
        sh = Concat<axis=0>(bb, second, tt, tt) y = Expand(v, sh)""",
    "causal mask by comparison": """y (bool) {SIZES
        r = Range(i0, t, i1) c = Unsqueeze(r, first) d = Unsqueeze(r, second)
        y = LessOrEqual(c, d)""",
    "last token": """y (float) {SIZES
        l = Sub(t, i1) y = Gather<axis=1>(x, l)""",
    "last token by a negative slice": """y (float) {SIZES
        a = Constant<value_ints=[-1]>() z = Constant<value_ints=[9223372036854775807]>()
        l = Slice(x, a, z, second) y = Squeeze(l, second)""",
    "halves": """y (float) {SIZES
        h = Div(t, two0) hh = Unsqueeze(h, first) l = Slice(x, first, hh, second)
        e = Slice(x, hh, tt, second) y = Concat<axis=1>(e, l)""",
    "reversed": """y (float) {SIZES
        a = Constant<value_ints=[-1]>() z = Constant<value_ints=[-9223372036854775807]>()
        y = Slice(x, a, z, second, a)""",
    "padded to an even size": """y (float) {SIZES
        p = Mod(t, two0) z = Constant<value_int=0>() pp = Unsqueeze(p, first)
        zz = Constant<value_ints=[0,0,0,0]>() z1 = Constant<value_ints=[0]>()
        pads = Concat<axis=0>(zz, pp, z1) y = Pad(x, pads)""",
    "split by a size": """y (float) {SIZES
        rest = Sub(t, i1) rr = Unsqueeze(rest, first) sz = Concat<axis=0>(rr, second)
        y, z = Split<axis=1>(x, sz)""",
    "tiled": """y (float) {SIZES
        g = Constant<value = float[1,1,2] {1,2}>() r = Concat<axis=0>(bb, tt, second)
        y = Tile(g, r)""",
    "mean by size": """y (float) {SIZES
        f = Cast<to=1>(t) a = ReduceSum<keepdims=0>(x, second) y = Div(a, f)""",
}


def graph(idiom: str) -> str:
    output, _, nodes = idiom.partition("{SIZES")
    name, dtype = output.split()
    extra = """ two0 = Constant<value_int=2>() two = Concat<axis=0>(bb, tt) """
    return f"g (float[B,S,12] x) => ({dtype.strip('()')} {name}) {{ {_SIZES} {extra} {nodes} }}"


@pytest.mark.parametrize("idiom", IDIOMS.values(), ids=IDIOMS)
def test_an_idiom_of_exporters_keeps_both_sizes_dynamic(idiom: str) -> None:
    model = model_of(graph(idiom))
    program = exported(OnnxModule(model), (3, 5, 12))
    for sizes in ((3, 5, 12), (7, 4, 12), (2, 9, 12)):
        x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
        found = program.module()(torch.from_numpy(x))
        same([found.detach().numpy()], expected(model, x), 1e-6, 1e-6)


def exported(module: OnnxModule, sizes: Sequence[int]) -> torch.export.ExportedProgram:
    dynamic = ({0: DYNAMIC, 1: DYNAMIC},)
    return torch.export.export(
        module.eval(), (torch.ones(*sizes),), dynamic_shapes={"inputs": dynamic}
    )
