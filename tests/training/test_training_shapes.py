"""Operators that read and change shapes, on tensors and on numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, expected, model_of, same

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule, execution

DATA = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 3), (1, 3), (-2, 3), (-9, 2), (0, -1), (2, 1), (1, 99), (-1, -5)]
)
def test_shape_takes_the_sizes_from_start_to_before_end(start: int, end: int) -> None:
    node = f"Shape<start={start}, end={end}>(x)"
    compare(model_of(f"g (float[2,3,4] x) => (int64[N] y) {{ y = {node} }}"), DATA)


@pytest.mark.parametrize(
    "target", [(4, 6), (-1,), (0, -1), (0, 0, 2, -1), (0, 1, -1, 2), (2, -1, 0), (3, 8)]
)
def test_reshape_copies_sizes_and_infers_one(target: tuple[int, ...]) -> None:
    model = model_of("g (float[A,B,C] x, int64[N] s) => (float y) { y = Reshape(x, s) }")
    compare(model, DATA, integers(*target))


@pytest.mark.parametrize(
    ("allow", "target", "shape"),
    [(1, (7, 0), (7, 0)), (0, (-1, 4), (0, 4)), (0, (0, -1), (0, 4)), (0, (-1, 2, 2), (0, 2, 2))],
)
def test_reshape_of_no_elements(
    allow: int, target: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    # ONNX Runtime refuses (0, -1) of (0, 4), though one answer alone is possible.
    model = model_of(
        f"g (float[A,B] x, int64[N] s) => (float y) {{ y = Reshape<allowzero={allow}>(x, s) }}"
    )
    (found,) = computed(model, np.zeros((0, 4), np.float32), integers(*target))
    assert found.shape == shape


def test_reshape_that_copies_a_size_which_is_not_there_is_refused() -> None:
    model = model_of("g (float[4] x, int64[N] s) => (float y) { y = Reshape(x, s) }")
    with pytest.raises(GraphoptError, match="0 is asked for axis 1 of 1"):
        computed(model, DATA[0, 0], integers(4, 0))


@pytest.mark.parametrize("axis", [-3, -1, 0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4), (2, 3, 0)])
def test_flatten(axis: int, shape: tuple[int, ...]) -> None:
    model = model_of(f"g (float[A,B,C] x) => (float y) {{ y = Flatten<axis={axis}>(x) }}")
    compare(model, np.ones(shape, np.float32))


@pytest.mark.parametrize("axes", [(0,), (-1, 0), (), (2,)])
def test_squeeze(axes: tuple[int, ...]) -> None:
    model = model_of("g (float[1,3,1] x, int64[N] a) => (float y) { y = Squeeze(x, a) }")
    compare(model, np.ones((1, 3, 1), np.float32), integers(*axes))


def test_squeeze_of_an_axis_that_has_more_is_refused() -> None:
    model = model_of("g (float[1,B] x, int64[N] a) => (float y) { y = Squeeze(x, a) }")
    with pytest.raises(GraphoptError, match="axis 1 has size 3, not 1"):
        computed(model, np.ones((1, 3), np.float32), integers(-1))


@pytest.mark.parametrize("axes", [(0,), (-1, 0), (3, 1), (-3, 0, 5)])
def test_unsqueeze(axes: tuple[int, ...]) -> None:
    model = model_of("g (float[A,B,C] x, int64[N] a) => (float y) { y = Unsqueeze(x, a) }")
    compare(model, DATA, integers(*axes))


@pytest.mark.parametrize("attribute", ["", "<perm=[2,0,1]>", "<perm=[1,0,2]>"])
@pytest.mark.parametrize("dtype", ["float", "uint16", "bool", "double", "int8"])
def test_transpose(attribute: str, dtype: str) -> None:
    model = model_of(f"g ({dtype}[A,B,C] x) => ({dtype} y) {{ y = Transpose{attribute}(x) }}")
    compare(model, DATA.astype({"float": "float32", "double": "float64"}.get(dtype, dtype)))


@pytest.mark.parametrize(
    ("shape", "target"),
    [((3, 1), (2, 3, 4)), ((2, 3), (1,)), ((3, 1), (1, 4)), ((1, 0), (5, 1)), ((), (2, 2))],
)
def test_expand_broadcasts_both_ways(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    model = model_of("g (float x, int64[N] s) => (float y) { y = Expand(x, s) }")
    if shape:
        axes = ",".join("ABC"[: len(shape)])
        model = model_of(f"g (float[{axes}] x, int64[N] s) => (float y) {{ y = Expand(x, s) }}")
    compare(model, np.ones(shape, np.float32), integers(*target))


@pytest.mark.parametrize(
    "value", ["float[1] {-2.5}", "int64[1] {7}", "bool[1] {1}", "uint64[1] {9}"]
)
@pytest.mark.parametrize("shape", [(2, 3), (0, 2), ()])
def test_constant_of_shape(value: str, shape: tuple[int, ...]) -> None:
    dtype = value.partition("[")[0]
    node = f"ConstantOfShape<value = {value}>(s)"
    model = model_of(f"g (int64[N] s) => ({dtype} y) {{ y = {node} }}")
    compare(model, integers(*shape))


@pytest.mark.parametrize("dtype", ["float", "double", "int64", "int32", "int16"])
@pytest.mark.parametrize("bounds", [(0, 5, 1), (5, 0, 1), (7, -3, -3), (2, 3, 9), (0, 10, 3)])
def test_range(dtype: str, bounds: tuple[int, int, int]) -> None:
    model = model_of(
        f"g ({dtype} a, {dtype} b, {dtype} c) => ({dtype}[N] y) {{ y = Range(a, b, c) }}"
    )
    numpy = {"float": np.float32, "double": np.float64}.get(dtype, dtype)
    compare(model, *[np.array(each, dtype=numpy) for each in bounds])


@pytest.mark.parametrize("bounds", [(0.1, 2.0, 0.3), (0.0, 1.0, 0.1), (1.0, -1.0, -0.25)])
def test_range_of_fractions(bounds: tuple[float, float, float]) -> None:
    model = model_of("g (float a, float b, float c) => (float[N] y) { y = Range(a, b, c) }")
    compare(model, *[np.array(each, dtype=np.float32) for each in bounds], rtol=2e-7)


@pytest.mark.parametrize("k", [-1, 0, 2, 9])
def test_eye_like(k: int) -> None:
    model = model_of(f"g (float[A,B] x) => (int64 y) {{ y = EyeLike<k={k}, dtype=7>(x) }}")
    compare(model, np.ones((3, 4), np.float32))


ON_NUMBERS = {
    "gather": "i = Constant<value_int=-1>() y = Gather(s, i)",
    "gather some": "i = Constant<value_ints=[2,0]>() y = Gather(s, i)",
    "slice": """a = Constant<value_ints=[-2]>() b = Constant<value_ints=[9223372036854775807]>()
        y = Slice(s, a, b)""",
    "slice backwards": """a = Constant<value_ints=[-1]>() b = Constant<value_ints=[-9]>()
        c = Constant<value_ints=[0]>() y = Slice(s, a, b, c, a)""",
    "slice backwards from before the first": """a = Constant<value_ints=[-9]>()
        b = Constant<value_ints=[-99]>() c = Constant<value_ints=[0]>()
        d = Constant<value_ints=[-1]>() y = Slice(s, a, b, c, d)""",
    "slice backwards to the largest integer": """a = Constant<value_ints=[-1]>()
        b = Constant<value_ints=[2147483647]>() c = Constant<value_ints=[0]>()
        y = Slice(s, a, b, c, a)""",
    "slice with steps but no axes": """a = Constant<value_ints=[0]>()
        b = Constant<value_ints=[3]>() c = Constant<value_ints=[2]>() y = Slice(s, a, b, "", c)""",
    "concat": "a = Constant<value_ints=[5,-1]>() y = Concat<axis=0>(a, s, s)",
    "split": "a = Constant<value_ints=[1,2]>() z, y = Split(s, a)",
    "split in equal parts": "z, y = Split<num_outputs=2>(s)",
    "squeeze and unsqueeze": """a = Constant<value_ints=[0]>() b = Constant<value_ints=[-1]>()
        u = Unsqueeze(s, a) v = Unsqueeze(u, b) y = Squeeze(v)""",
    "squeeze an axis": """a = Constant<value_ints=[0]>() b = Constant<value_ints=[-1]>()
        u = Unsqueeze(s, b) v = Unsqueeze(u, a) y = Squeeze(v, a)""",
    "reshape": "a = Constant<value_ints=[-1,1]>() y = Reshape(s, a)",
    "flatten": "y = Flatten<axis=0>(s)",
    "transpose": """a = Constant<value_ints=[-1,1]>() b = Reshape(s, a) y = Transpose(b)""",
    "expand": "a = Constant<value_ints=[2,1]>() y = Expand(s, a)",
    "tile": "a = Constant<value_ints=[2]>() y = Tile(s, a)",
    "constant of shape": """n = Shape(s) y = ConstantOfShape<value = int64[1] {3}>(n)""",
    "range": """a = Constant<value_int=2>() b = Constant<value_int=0>() n = Gather(s, b)
        c = Constant<value_int=-1>() y = Range(n, c, c)""",
    "size": "y = Size(s)",
    "scatter": """a = Constant<value_ints=[-1]>() b = Constant<value_ints=[9]>()
        y = ScatterElements(s, a, b)""",
    "scatter by rows": """a = Constant<value_ints=[1,0]>() b = Constant<value_ints=[9,8]>()
        c = Constant<value_ints=[-1,1]>() i = Reshape(a, c) y = ScatterND(s, i, b)""",
    "identity": "y = Identity(s)",
}


@pytest.mark.parametrize("nodes", ON_NUMBERS.values(), ids=ON_NUMBERS)
def test_numbers_stay_numbers(nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise AssertionError("numbers became a tensor")

    monkeypatch.setattr(execution, "tensor_of", refuse)
    model = model_of(f"g (float[2,3,4] x) => (int64 y) {{ s = Shape(x) {nodes} }}")
    same(computed(model, DATA), expected(model, DATA), 0, 0)


def test_numbers_become_a_tensor_where_they_are_too_many() -> None:
    nodes = "a = Constant<value_ints=[40]>() y = Tile(s, a)"
    model = model_of(f"g (float[2,3,4] x) => (int64 y) {{ s = Shape(x) {nodes} }}")
    same(computed(model, DATA), expected(model, DATA), 0, 0)


def test_numbers_and_tensors_join_to_a_tensor() -> None:
    model = model_of(
        "g (float[2,3,4] x, int64[2] z) => (int64 y) { s = Shape(x) y = Concat<axis=0>(s, z) }"
    )
    compare(model, DATA, integers(5, 6))


def test_a_weight_behind_identity_is_a_parameter() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y)'
        " <float[2] w = {1.5, 2.5}> { v = Identity(w) y = Mul(x, v) }"
    )
    module = OnnxModule(model)
    module(torch.ones(2)).sum().backward()
    assert module.w.grad.tolist() == [1.0, 1.0]
