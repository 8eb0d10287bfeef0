from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.model import load, save
from graphopt.model.macs import Macs, count_macs

HEAD = '<ir_version: 10, opset_import: ["": 20]>'
LIST = 1 << 40

GREEDY = {
    "Range": f"c = Constant<value_int={LIST}>() o = Constant<value_int=1>() r = Range(o, c, o)",
    "Range of a product": f"""c = Constant<value_int={1 << 20}>() o = Constant<value_int=1>()
        d = Mul(c, c) r = Range(o, d, o)""",
    "ConstantOfShape": f"s = Constant<value_ints=[{LIST}]>() r = ConstantOfShape(s)",
    "Expand of a product": f"""s = Constant<value_ints=[{1 << 20}]>() t = Mul(s, s)
        r = Expand(x, t)""",
    "Pad": f"""s = Constant<value_ints=[0, {1 << 20}]>() t = Mul(s, s)
        i = Cast<to=7>(x) r = Pad(i, t)""",
    "OneHot": f"""i = Constant<value_int=3>() c = Constant<value_int={LIST}>()
        v2 = Constant<value_floats=[0.0, 1.0]>() r = OneHot(i, c, v2)""",
    "Reshape": f"""s = Constant<value_ints=[{1 << 20}]>() u = Mul(s, s) h = Shape(x)
        r = Reshape(x, u)""",
}


def _counted_within_two_gigabytes(text: str) -> Macs:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    return count_macs(ir.from_onnx_text(text))


@pytest.mark.parametrize("nodes", GREEDY.values(), ids=GREEDY.keys())
def test_a_list_that_no_memory_holds_is_not_listed(nodes: str) -> None:
    text = (
        f"{HEAD} g (float[1] x, float[4,8] w, float[8,2] v) => (y)"
        f"{{ {nodes} a = Cast<to=7>(r) y = MatMul(w, v) }}"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        counted = pool.apply(_counted_within_two_gigabytes, (text,))
    assert counted == Macs(4 * 8 * 2, 0, ())


def test_a_long_input_is_not_listed() -> None:
    text = (
        f"{HEAD} g (int64[{LIST}] x, float[4,8] w, float[8,2] v) => (y)"
        "{ a = Cast<to=1>(x) y = MatMul(w, v) }"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        counted = pool.apply(_counted_within_two_gigabytes, (text,))
    assert counted == Macs(4 * 8 * 2, 0, ())


def test_sizes_that_data_show_are_still_found() -> None:
    model = ir.from_onnx_text(
        f"""{HEAD} g (float[2,3,8] x, float[24,5] w) => (y) {{
            s = Shape(x) i = Constant<value_ints=[0]>() n = Gather(s, i)
            m = Constant<value_ints=[-1]>() t = Concat<axis=0>(n, m)
            r = Reshape(x, t) y = MatMul(r, w) }}"""
    )
    assert count_macs(model) == Macs(2 * 24 * 5, 0, ())


def test_sparse_weights_count_as_dense_ones(tmp_path: Path) -> None:
    model = ir.from_onnx_text(
        f"{HEAD} g (float[N,64] x, float[64,32] w) => (float[N,32] y) {{ y = MatMul(x, w) }}"
    )
    weight = model.graph.inputs.pop()
    zeros = np.zeros((64, 32), np.float32)
    zeros[3, 4] = 1
    weight.const_value = ir.tensor(zeros, name="w")
    model.graph.register_initializer(weight)
    path = tmp_path / "sparse.onnx"
    save(model, path, sparse_storage=True)
    assert len(onnx.load(path).graph.sparse_initializer) == 1
    assert count_macs(load(path)) == Macs(64 * 32, 0, ())


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD} g (float[1] x) => (float[1] y) {{ y = other.Foo(x) }}",
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> g (float[1] x) => (float[1] y)
        { y = f.foo(x) }
        <domain: "f", opset_import: ["": 20, "f": 1]> foo (a) => (b) { b = f.foo(a) }""",
    ],
    ids=["a domain without an opset", "a recursive function"],
)
def test_what_onnx_refuses_is_unknown(text: str) -> None:
    counted = count_macs(ir.from_onnx_text(text))
    assert counted.total is None
    assert "shape inference refused the model" in counted.unknown[0]
