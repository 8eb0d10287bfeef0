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


@pytest.mark.parametrize("idiom", IDIOMS.values(), ids=IDIOMS)
def test_an_idiom_is_computed_where_the_inputs_are(idiom: str) -> None:
    # Tensors of this device hold no elements, and mix with none of another one.
    module = OnnxModule(model_of(graph(idiom))).to("meta")
    x = np.ones((3, 5, 12), dtype=np.float32)
    found = module(torch.ones(3, 5, 12, device="meta"))
    (wanted,) = expected(model_of(graph(idiom)), x)
    assert found.device.type == "meta"
    assert found.shape == wanted.shape


FED: dict[str, tuple[str, list[list[int]]]] = {
    "Reshape": ("int64[2] s) => (float y) { y = Reshape(x, s) }", [[8, 3], [6, 4]]),
    "Expand": ("int64[3] s) => (float y) { y = Expand(x, s) }", [[2, 6, 4], [3, 6, 4]]),
    "Slice": (
        "int64[2] s) => (float y) { a, b = Split<num_outputs=2>(s) y = Slice(x, a, b) }",
        [[1, 4], [2, 5]],
    ),
    "Tile": ("int64[2] s) => (float y) { y = Tile(x, s) }", [[2, 3], [1, 4]]),
    "Pad": ("int64[4] s) => (float y) { y = Pad(x, s) }", [[1, 2, 3, 4], [0, 2, 5, 0]]),
    "Pad edge": (
        'int64[4] s) => (float y) { y = Pad<mode="edge">(x, s) }',
        [[1, 2, 3, 4], [2, 2, 5, 1]],
    ),
    "Split": ("int64[2] s) => (float y) { y, z = Split(x, s) }", [[1, 5], [2, 4]]),
    "ConstantOfShape": ("int64[2] s) => (float y) { y = ConstantOfShape(s) }", [[2, 3], [4, 5]]),
    "OneHot": (
        """int64[2] s) => (float y) { m = ReduceMax<keepdims=0>(s)
        v = Constant<value_floats=[0.0,1.0]>() y = OneHot(s, m, v) }""",
        [[1, 5], [2, 4]],
    ),
    "Range": (
        """int64[2] s) => (int64 y) { m = ReduceMax<keepdims=0>(s) a = Constant<value_int=0>()
        b = Constant<value_int=1>() y = Range(a, m, b) }""",
        [[1, 5], [2, 4]],
    ),
    "NonZero": (
        """int64[2] s) => (float y) { n = NonZero(x) t = Transpose(n) y = GatherND(x, t) }""",
        [[1, 5], [2, 4]],
    ),
    "Compress": (
        """int64[2] s) => (float y) { z = Constant<value_int=4>() c = Equal(s, z)
        y = Compress<axis=0>(x, c) }""",
        [[1, 4], [4, 4]],
    ),
}


@pytest.mark.parametrize("name", FED)
def test_sizes_that_data_tells_are_read_when_the_program_runs(name: str) -> None:
    text, fed = FED[name]
    model = model_of(f"g (float[6,4] x, {text}")
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    inputs = (torch.from_numpy(x), torch.tensor(fed[0]))
    program = torch.export.export(OnnxModule(model).eval(), inputs)
    for each in fed:
        found = program.module()(inputs[0], torch.tensor(each))
        same([found.detach().numpy()], expected(model, x, np.array(each)), 0, 0)


def test_squeeze_of_an_axis_whose_size_is_dynamic_is_no_identity() -> None:
    model = model_of(
        "g (float[A,4] x) => (float y) { a = Constant<value_ints=[0]>() y = Squeeze(x, a) }"
    )
    with pytest.raises(RuntimeError, match=r"Squeeze.*: axis 0 has not size 1"):
        torch.export.export(
            OnnxModule(model), (torch.ones(3, 4),), dynamic_shapes={"inputs": ({0: DYNAMIC},)}
        )
