"""Operators that take parts of a tensor, and add to it at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from against_onnx_runtime import compare, computed, expected, model_of
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError

DATA = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
NAMES = {"float32": "float", "float64": "double"}


def integers(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_slice_as_onnx_runtime_does(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 5))
    places = st.one_of(st.integers(-8, 8), st.sampled_from([-(2**63), 2**63 - 1, 2**31 - 1, 2**62]))
    start, end = data.draw(places), data.draw(places)
    step = data.draw(st.sampled_from([-3, -2, -1, 1, 2, 7]))
    model = model_of(
        "g (float[A,B] x, int64[1] s, int64[1] e, int64[1] a, int64[1] t) => (float y)"
        " { y = Slice(x, s, e, a, t) }"
    )
    x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    compare(model, x, *(integers(each) for each in (start, end, -1, step)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pad_as_onnx_runtime_does(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    rows, columns = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 4))
    pads = []
    for size in (rows, columns):
        before = data.draw(st.integers(-1, 3))
        behind = data.draw(st.integers(-1, 3))
        left = size + min(before, 0) + min(behind, 0)
        if mode == "constant" or left > 0:
            # ONNX Runtime reflects once alone.
            most = left - 1 if mode == "reflect" else 9
            pads.append((min(before, most), min(behind, most)))
        else:
            pads.append((0, 0))
    model = model_of(
        f'g (float[A,B] x, int64[4] p, float v) => (float y) {{ y = Pad<mode="{mode}">(x, p, v) }}'
    )
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    (a, b), (c, d) = pads
    compare(model, x, integers(a, c, b, d), np.array(-7, dtype=np.float32))


@pytest.mark.parametrize("axes", [(1, 0), (-1, -2)])
@pytest.mark.parametrize("dtype", ["int64", "bool", "int32", "uint8", "float64"])
def test_pad_of_some_axes_in_another_order(axes: tuple[int, int], dtype: str) -> None:
    name = NAMES.get(dtype, dtype)
    model = model_of(
        f"g ({name}[A,B] x, int64[4] p, {name} v, int64[2] a) => ({name} y)"
        " { y = Pad(x, p, v, a) }"
    )
    x = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    compare(model, x, integers(1, 0, 2, 3), np.array(1, dtype=dtype), integers(*axes))


def test_pad_that_takes_away_more_than_there_is() -> None:
    model = model_of("g (float[A] x, int64[2] p) => (float y) { y = Pad(x, p) }")
    compare(model, np.ones(5, np.float32), integers(-6, 3))


def test_reflections_go_on_beyond_the_first_turn() -> None:
    model = model_of('g (float[A] x, int64[2] p) => (float y) { y = Pad<mode="reflect">(x, p) }')
    (found,) = computed(model, np.arange(3, dtype=np.float32), integers(5, 3))
    assert found.tolist() == np.pad(np.arange(3), (5, 3), mode="reflect").tolist()


@pytest.mark.parametrize("count", [2, 3])
def test_split_in_equal_parts_of_which_the_last_is_smaller(count: int) -> None:
    names = ", ".join("abc"[:count])
    outputs = ", ".join(f"float {each}" for each in "abc"[:count])
    node = f"Split<num_outputs={count}, axis=-1>(x)"
    compare(model_of(f"g (float[A,B,C] x) => ({outputs}) {{ {names} = {node} }}"), DATA)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [-9, -1, 0, 2, 9])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_trilu(upper: int, k: int, dtype: str) -> None:
    name = NAMES.get(dtype, dtype)
    node = f"Trilu<upper={upper}>(x, k)"
    model = model_of(f"g ({name}[A,B,C] x, int64 k) => ({name} y) {{ y = {node} }}")
    compare(model, np.ones((2, 3, 4), dtype=dtype), np.array(k))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    node = f'DepthToSpace<blocksize=2, mode="{mode}">(x)'
    model = model_of(f"g (float[A,8,H,W] x) => (float y) {{ y = {node} }}")
    data = np.random.default_rng(6).standard_normal((2, 8, 3, 5)).astype(np.float32)
    compare(model, data)
    back = model_of("g (float[A,2,H,W] x) => (float y) { y = SpaceToDepth<blocksize=2>(x) }")
    compare(back, expected(model, data)[0])


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(time: int, batch: int) -> None:
    node = f"ReverseSequence<time_axis={time}, batch_axis={batch}>(x, n)"
    model = model_of(f"g (float[A,B,C] x, int64[N] n) => (float y) {{ y = {node} }}")
    lengths = integers(1, 3, 2, 3) if batch else integers(1, 4, 2)
    compare(model, DATA, lengths)


@pytest.mark.parametrize("axes", ["", "<axes=[0,2]>", "<axes=[-1,0]>"])
@pytest.mark.parametrize("target", [(2, 7), (5, 2), (4, 4)])
def test_center_crop_pad(axes: str, target: tuple[int, int]) -> None:
    shape = (target[0], 5, target[1]) if not axes else target
    node = f"CenterCropPad{axes}(x, s)"
    model = model_of(f"g (float[A,B,C] x, int64[N] s) => (float y) {{ y = {node} }}")
    compare(model, DATA, integers(*shape))


@pytest.mark.parametrize(("axis", "sizes"), [(0, (1, 2)), (-1, (0, 5)), (1, (3, 1))])
def test_split_of_given_sizes(axis: int, sizes: tuple[int, int]) -> None:
    node = f"Split<axis={axis}>(x, s)"
    model = model_of(f"g (float[A,B,C] x, int64[N] s) => (float a, float b) {{ a, b = {node} }}")
    compare(model, DATA, integers(*sizes))


def test_split_that_does_not_make_up_the_axis_is_refused() -> None:
    model = model_of("g (float[A,B,C] x, int64[N] s) => (float a, float b) { a, b = Split(x, s) }")
    with pytest.raises(GraphoptError, match="do not make up 3"):
        computed(model, DATA, integers(1, 1))


@pytest.mark.parametrize("repeats", [(2, 1, 3), (1, 0, 1)])
def test_tile(repeats: tuple[int, ...]) -> None:
    model = model_of("g (float[A,B,C] x, int64[N] r) => (float y) { y = Tile(x, r) }")
    compare(model, DATA, integers(*repeats))
