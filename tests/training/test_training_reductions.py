"""Reductions, running sums, and order in PyTorch, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, model_of, same
from held_constants import OPSET, module

NAMES = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"]
NAMES += ["ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
DATA = np.random.default_rng(3).normal(size=(3, 4, 5)) * 2
KINDS = {"float": "float32", "double": "float64", "int32": "int32", "int64": "int64"}


def reduction(name: str, dtype: str = "float", attributes: str = "", axes: bool = True) -> ir.Model:
    inputs, used = (", int64[M] axes", ", axes") if axes else ("", "")
    text = f"g ({dtype}[A, B, C] x{inputs}) => ({dtype} y) {{ y = {name}{attributes}(x{used}) }}"
    model = model_of(text, OPSET)
    model.graph.outputs[0].shape = None
    return model


def of_kind(array: np.ndarray, dtype: str) -> np.ndarray:
    return (np.abs(array) + 0.1 if dtype == "log" else array).astype(KINDS.get(dtype, "float32"))


@pytest.mark.parametrize("keep", ["<keepdims=0>", "<keepdims=1>"])
@pytest.mark.parametrize("axes", [[0], [-1], [0, 2], [-2, 0], [0, 1, 2], []])
@pytest.mark.parametrize("name", NAMES)
def test_axes(name: str, axes: list[int], keep: str) -> None:
    data = of_kind(DATA, "log" if name == "ReduceLogSum" else "float")
    compare(reduction(name, "float", keep), data, np.array(axes, np.int64), rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("keep", ["<keepdims=0>", "<keepdims=1>"])
@pytest.mark.parametrize("name", NAMES)
def test_all_axes_where_none_are_given(name: str, keep: str) -> None:
    data = of_kind(DATA, "log" if name == "ReduceLogSum" else "float")
    compare(reduction(name, "float", keep, axes=False), data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_axes_reduce_each_element_alone(name: str) -> None:
    # What the standard says; ONNX Runtime of some versions returns the input.
    wanted = {
        "ReduceL1": np.abs,
        "ReduceL2": np.abs,
        "ReduceLogSum": np.log,
        "ReduceSumSquare": np.square,
    }.get(name, np.asarray)
    data = np.abs(DATA) + 0.1 if name == "ReduceLogSum" else DATA
    model = reduction(name, "double", "<noop_with_empty_axes=1>")
    same(computed(model, data, np.array([], np.int64)), [wanted(data)], 1e-14, 1e-14)


@pytest.mark.parametrize("dtype", ["int32", "int64", "double"])
@pytest.mark.parametrize("name", NAMES)
def test_types(name: str, dtype: str) -> None:
    data = of_kind(DATA * 3, dtype)
    if name == "ReduceLogSum":
        data = np.abs(data) + 1
    compare(reduction(name, dtype), data, np.array([1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint32", "uint64"])
@pytest.mark.parametrize(("name", "wanted"), [("ReduceMax", np.max), ("ReduceMin", np.min)])
def test_extremes_of_other_types(name: str, wanted: object, dtype: str) -> None:
    data = np.abs(DATA * 20).astype(dtype)
    if dtype == "uint64":
        data[0, 0] += np.uint64(2**63)
    found = computed(reduction(name, dtype), data, np.array([1]))
    assert callable(wanted)
    same(found, [wanted(data, axis=1, keepdims=True)], 0, 0)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_sums_of_unsigned_integers_wrap(dtype: str) -> None:
    data = np.full((1, 3, 1), np.iinfo(dtype).max, dtype)
    axes = np.array([1])
    for name, wanted in (
        ("ReduceSum", data.sum(1, dtype=dtype, keepdims=True)),
        ("ReduceProd", data.prod(1, dtype=dtype, keepdims=True)),
    ):
        same(computed(reduction(name, dtype), data, axes), [wanted], 0, 0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ReduceL1", 0),
        ("ReduceL2", 0),
        ("ReduceLogSum", -np.inf),
        ("ReduceLogSumExp", -np.inf),
        ("ReduceMax", -np.inf),
        ("ReduceMin", np.inf),
        ("ReduceProd", 1),
        ("ReduceSum", 0),
        ("ReduceSumSquare", 0),
    ],
)
def test_no_elements(name: str, wanted: float) -> None:
    empty = np.zeros((2, 0, 3), np.float32)
    found = computed(reduction(name), empty, np.array([1]))
    same(found, [np.full((2, 1, 3), wanted, np.float32)], 0, 0)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_extremes_of_no_integers_are_the_bounds_of_their_type(dtype: str) -> None:
    empty = np.zeros((2, 0, 3), dtype)
    low, high = (False, True) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for name, wanted in (("ReduceMax", low), ("ReduceMin", high)):
        found = computed(reduction(name, dtype), empty, np.array([1]))
        same(found, [np.full((2, 1, 3), wanted, dtype)], 0, 0)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
def test_places_of_extremes(name: str, axis: int, last: int) -> None:
    attributes = f"<axis={axis}, keepdims=0, select_last_index={last}>"
    model = model_of(f"g (float[A, B] x) => (int64[C] y) {{ y = {name}{attributes}(x) }}", OPSET)
    compare(model, np.random.default_rng(4).integers(0, 3, (6, 7)).astype(np.float32))


@pytest.mark.parametrize(
    "attributes", ["", "<exclusive=1>", "<reverse=1>", "<exclusive=1, reverse=1>"]
)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float", "double", "int32", "int64"])
def test_running_sums(dtype: str, axis: int, attributes: str) -> None:
    model = model_of(
        f"g ({dtype}[A, B, C] x, int64 axis) => ({dtype}[A, B, C] y)"
        f" {{ y = CumSum{attributes}(x, axis) }}",
        OPSET,
    )
    compare(model, of_kind(DATA * 5, dtype), np.array(axis), rtol=1e-5, atol=1e-5)


def test_running_sums_start_at_zero_beside_infinities() -> None:
    model = model_of(
        "g (float[N] x, int64 axis) => (float[N] y) { y = CumSum<exclusive=1>(x, axis) }", OPSET
    )
    compare(model, np.array([1, np.inf, 2], np.float32), np.array(0))


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [("", [2, 6, 24]), ("<exclusive=1>", [1, 2, 6]), ("<exclusive=1, reverse=1>", [12, 4, 1])],
)
def test_running_products(attributes: str, wanted: list[int]) -> None:
    model = model_of(
        f"g (uint32[N] x, int32 axis) => (uint32[N] y) {{ y = CumProd{attributes}(x, axis) }}", 26
    )
    found = computed(model, np.array([2, 3, 4], np.uint32), np.array(-1, np.int32))
    same(found, [np.array(wanted, np.uint32)], 0, 0)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", ["float", "double", "int32", "int64"])
def test_the_best_with_ties(dtype: str, axis: int, largest: int) -> None:
    model = model_of(
        f"g ({dtype}[A, B] x, int64[1] k) => ({dtype}[C, D] y, int64[C, D] i)"
        f" {{ y, i = TopK<axis={axis}, largest={largest}>(x, k) }}",
        OPSET,
    )
    ties = np.random.default_rng(5).integers(-2, 3, (30, 40)).astype(KINDS[dtype])
    for count in (0, 1, 7, 30):
        compare(model, ties, np.array([count]))


def test_the_best_of_unsigned_integers() -> None:
    model = model_of(
        "g (uint64[A] x, int64[1] k) => (uint64[C] y, int64[C] i) { y, i = TopK(x, k) }", OPSET
    )
    values = np.array([5, 2**63 + 1, 2**64 - 1, 7], np.uint64)
    found = computed(model, values, np.array([3]))
    same(found, [values[[2, 1, 3]], np.array([2, 1, 3])], 0, 0)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_norms_become_one_and_zeros_stay(axis: int, p: int) -> None:
    model = model_of(
        f"g (float[A, B] x) => (float[A, B] y) {{ y = LpNormalization<axis={axis}, p={p}>(x) }}",
        OPSET,
    )
    data = DATA[0].astype(np.float32)
    data[1], data[:, 2] = 0, 0
    compare(model, data, rtol=2e-6)
    x = torch.from_numpy(data).requires_grad_()
    (module(model)(x) ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_gradients() -> None:
    x = torch.from_numpy(DATA.copy()).requires_grad_()
    for name in NAMES:
        data = (x.detach().abs() + 0.1).requires_grad_() if name == "ReduceLogSum" else x
        own = module(reduction(name, "double", axes=False))
        assert torch.autograd.gradcheck(own, (data,))


def test_reductions_are_exported_with_any_batch() -> None:
    body = "a = ReduceMean<keepdims=0>(x, axes) b = ReduceL2(x, axes) c = Div(x, b)"
    body += " m = ReduceMax(c, axes) d = Sub(c, m) y, i = TopK(d, k)"
    own = module(
        model_of(
            "g (float[N, 5] x) => (float[N, 2] y, int64[N, 2] i, float[N] a)"
            f" <int64[1] axes = {{-1}}, int64[1] k = {{2}}> {{ {body} }}",
            OPSET,
        )
    )
    dims = {"inputs": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(own, (torch.rand(4, 5),), dynamic_shapes=dims).module()
    x = torch.randn(7, 5)
    for one, other in zip(exported(x), own(x), strict=True):
        torch.testing.assert_close(one, other)


def test_at_most_so_many_of_the_best_of_any_batch() -> None:
    body = "s = Shape<end=1>(x) k = Min(s, most) y, i = TopK<axis=0>(x, k)"
    graph = "g (float[N, 3] x) => (float[K, 3] y, int64[K, 3] i) <int64[1] most = {5}>"
    own = module(model_of(f"{graph} {{ {body} }}", OPSET))
    dims = {"inputs": ({0: torch.export.Dim("n", min=2, max=64)},)}
    exported = torch.export.export(own, (torch.rand(8, 3),), dynamic_shapes=dims).module()
    for size in (3, 9):
        x = torch.randn(size, 3)
        for one, other in zip(exported(x), own(x), strict=True):
            torch.testing.assert_close(one, other)
            assert one.shape[0] == min(size, 5)
