"""Operators that read or write elements at places that a tensor tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import compare, computed, model_of, same

from graphopt.training import OnnxModule

DATA = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32",
          "int64", "uint64", "bool")  # fmt: skip
NAMES = {"float32": "float", "float64": "double"}


def integers(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [0, -1, [], [2, -3, 0], [[1, -1], [0, 0]]])
@pytest.mark.parametrize("index_type", ["int64", "int32"])
def test_gather(axis: int, indices: Any, index_type: str) -> None:
    index = np.array(indices, dtype=index_type)
    axes = ",".join("ABC"[: index.ndim])
    wanted = f"{index_type}[{axes}] i" if axes else f"{index_type} i"
    model = model_of(
        f"g (float[A,B,C] x, {wanted}) => (float y) {{ y = Gather<axis={axis}>(x, i) }}"
    )
    compare(model, DATA, index)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_of_all_types_move(dtype: str) -> None:
    name = NAMES.get(dtype, dtype)
    model = model_of(
        f"""g ({name}[4] x, int64[3] i, int64[3,1] j) =>
        ({name} a, {name} b, {name} c, {name} d, {name} e, {name} f, {name} h) {{
            a = Gather(x, i) b = GatherElements(x, i) c = GatherND(x, j)
            d = ScatterElements(x, i, a) e = ScatterND(x, j, a)
            f = Concat<axis=0>(x, a) t = Shape(i) h = Tile(x, t0) }}""".replace("t0", "i0").replace(
            "t = Shape(i)", "i0 = Constant<value_ints=[3]>()"
        )
    )
    data = np.array([0, 1, 0, 1]).astype(dtype) if dtype == "bool" else np.arange(4).astype(dtype)
    if dtype not in ("bool", "int8", "uint8", "int16", "float16") and data.dtype.kind in "iu":
        data[3] = np.iinfo(dtype).max
    if dtype in ("uint16", "uint32", "uint64"):
        # ONNX Runtime tiles no such elements.
        found = computed(model, data, integers(3, 0, -2), integers([3], [0], [-2]))
        taken = data[[3, 0, -2]]
        same(found[:3], [taken] * 3, 0, 0)
        same(found[3:], [data, data, np.concatenate([data, taken]), np.tile(data, 3)], 0, 0)
        return
    compare(model, data, integers(3, 0, -2), integers([3], [0], [-2]))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    node = f"GatherElements<axis={axis}>(x, i)"
    model = model_of(f"g (float[A,B,C] x, int64[D,E,F] i) => (float y) {{ y = {node} }}")
    index = np.random.default_rng(1).integers(-3, 3, (2, 4, 3) if axis else (5, 4, 5))
    compare(model, DATA, index)


@pytest.mark.parametrize(
    ("batches", "index_shape"),
    [(0, (2, 3)), (0, (2, 2)), (0, (4, 2, 1)), (0, (1,)), (1, (3, 2)), (1, (3, 2, 1)),
     (2, (3, 4, 1)), (0, (0, 2))],
)  # fmt: skip
def test_gather_nd(batches: int, index_shape: tuple[int, ...]) -> None:
    axes = ",".join("DEF"[: len(index_shape)])
    node = f"GatherND<batch_dims={batches}>(x, i)"
    model = model_of(f"g (float[A,B,C] x, int64[{axes}] i) => (float y) {{ y = {node} }}")
    compare(model, DATA, np.random.default_rng(2).integers(-3, 3, index_shape))


REDUCTIONS = ("add", "mul", "max", "min")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "int8"])
@pytest.mark.parametrize("axis", [0, -1])
def test_scatter_elements_reduces_at_repeated_places(reduction: str, dtype: str, axis: int) -> None:
    name = NAMES.get(dtype, dtype)
    node = f'ScatterElements<axis={axis}, reduction="{reduction}">(x, i, u)'
    model = model_of(
        f"g ({name}[A,B] x, int64[C,D] i, {name}[C,D] u) => ({name} y) {{ y = {node} }}"
    )
    random = np.random.default_rng(3)
    data, updates = (random.integers(0, 5, size).astype(dtype) for size in ((3, 4), (3, 4)))
    compare(model, data, random.integers(-3, 3, (3, 4)), updates)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint32"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd_reduces_at_repeated_places(reduction: str, dtype: str, depth: int) -> None:
    name = NAMES.get(dtype, dtype)
    axes = ",".join(["D", *"ABC"[depth:]])
    node = f'ScatterND<reduction="{reduction}">(x, i, u)'
    model = model_of(
        f"g ({name}[A,B,C] x, int64[D,{depth}] i, {name}[{axes}] u) => ({name} y) {{ y = {node} }}"
    )
    random = np.random.default_rng(4)
    data = random.integers(0, 5, (3, 4, 5)).astype(dtype)
    updates = random.integers(0, 5, (6, *(3, 4, 5)[depth:])).astype(dtype)
    compare(model, data, random.integers(-3, 3, (6, depth)), updates)


def test_scatter_nd_without_updates_changes_nothing() -> None:
    model = model_of(
        "g (float[A,B] x, int64[D,2] i, float[D] u) => (float y) { y = ScatterND(x, i, u) }"
    )
    compare(model, DATA[0], np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


def test_scatter_nd_by_rows_of_no_index_replaces_all() -> None:
    model = model_of(
        "g (float[A,B] x, int64[1,0] i, float[1,A,B] u) => (float y) { y = ScatterND(x, i, u) }"
    )
    (found,) = computed(model, DATA[0], np.zeros((1, 0), np.int64), DATA[1:2])
    assert np.array_equal(found, DATA[1])


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize(
    ("index", "depth", "value"),
    [
        ("int64", "int64", "int64"),
        ("float", "int64", "int64"),
        ("int64", "int64", "float"),
        ("int64", "int32", "float"),
        ("int32", "int32", "float"),
        ("float", "float", "float"),
    ],
)
def test_one_hot(axis: int, index: str, depth: str, value: str) -> None:
    node = f"OneHot<axis={axis}>(i, d, v)"
    model = model_of(f"g ({index}[A,B] i, {depth} d, {value}[2] v) => ({value} y) {{ y = {node} }}")
    index, depth, value = (each.replace("float", "float32") for each in (index, depth, value))
    indices = np.array([[0, -1, 4], [3, -5, -4]], dtype=index)
    compare(model, indices, np.array(4, dtype=depth), np.array([2, 5], dtype=value))


@pytest.mark.parametrize("attribute", ["", "<axis=0>", "<axis=-1>"])
@pytest.mark.parametrize("condition", [[True, False, True], [False], [False, True]])
def test_compress(attribute: str, condition: list[bool]) -> None:
    node = f"Compress{attribute}(x, c)"
    model = model_of(f"g (float[A,B,C] x, bool[D] c) => (float y) {{ y = {node} }}")
    compare(model, DATA, np.array(condition))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2), (0, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "int32"])
def test_non_zero(shape: tuple[int, ...], dtype: str) -> None:
    axes = ",".join("ABC"[: len(shape)])
    name = NAMES.get(dtype, dtype)
    model = model_of(f"g ({name}[{axes}] x) => (int64 y) {{ y = NonZero(x) }}")
    compare(model, np.random.default_rng(5).integers(0, 2, shape).astype(dtype))


@pytest.mark.parametrize("is_sorted", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "int64", "int8", "float64"])
def test_unique(is_sorted: int, axis: int | None, dtype: str) -> None:
    attribute = "" if axis is None else f", axis={axis}"
    name = NAMES.get(dtype, dtype)
    node = f"Unique<sorted={is_sorted}{attribute}>(x)"
    model = model_of(
        f"g ({name}[A,B] x) => ({name} y, int64 f, int64 i, int64 c) {{ y, f, i, c = {node} }}"
    )
    data = np.array([[3, 1, 3, 1], [2, 1, 2, 1], [3, 1, 3, 1], [0, 1, 0, -2]], dtype=dtype)
    compare(model, data)


def test_unique_of_nothing() -> None:
    model = model_of("g (float[A] x) => (float y, int64 f) { y, f = Unique(x) }")
    found = computed(model, np.zeros(0, np.float32))
    assert [each.shape for each in found] == [(0,), (0,)]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_array_feature_extractor(shape: tuple[int, ...]) -> None:
    axes = ",".join("ABC"[: len(shape)])
    model = model_of(
        f"g (float[{axes}] x, int64[N] i) => (float y) "
        "{ y = ai.onnx.ml.ArrayFeatureExtractor(x, i) }",
        extra=', "ai.onnx.ml": 3',
    )
    compare(model, np.arange(np.prod(shape), dtype=np.float32).reshape(shape), integers(3, 0, 3))


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter_writes_from_a_start_for_each_sample(mode: str) -> None:
    node = f'TensorScatter<mode="{mode}">(x, u, s)'
    model = model_of(
        f"g (float[2,H,6,D] x, float[2,H,3,D] u, int64[2] s) => (float y) {{ y = {node} }}", 24
    )
    cache = np.zeros((2, 2, 6, 1), np.float32)
    update = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3, 1)
    starts = integers(1, 3) if mode == "linear" else integers(1, 5)
    (found,) = computed(model, cache, update, starts)
    wanted = cache.copy()
    for sample in range(2):
        for step in range(3):
            wanted[sample, :, (starts[sample] + step) % 6] = update[sample, :, step]
    assert np.array_equal(found, wanted)


GRADIENTS = {
    "Gather": "y = Gather<axis=1>(x, i)",
    "GatherElements": "y = GatherElements<axis=1>(x, j)",
    "GatherND": "y = GatherND<batch_dims=1>(x, l)",
    "ScatterElements": "y = ScatterElements<axis=1>(x, j, w)",
    "ScatterElements add": 'y = ScatterElements<axis=1, reduction="add">(x, j, w)',
    "ScatterElements mul": 'y = ScatterElements<axis=1, reduction="mul">(x, j, w)',
    "ScatterND": "y = ScatterND(x, k, v)",
    "ScatterND max": 'y = ScatterND<reduction="max">(x, k, v)',
    "OneHot": "d = Constant<value_int=3>() h = OneHot(j, d, p) y = Mul(h, p1)",
    "TensorScatter": "y = TensorScatter<axis=1>(x, w)",
    "Compress": "y = Compress<axis=1>(x, c)",
    "ReverseSequence": "y = ReverseSequence<time_axis=1, batch_axis=0>(x, n)",
    "Pad": 'z = Constant<value_ints=[0,2,1,-1]>() y = Pad<mode="reflect">(x, z)',
    "Pad wrap": 'z = Constant<value_ints=[0,5,0,6]>() y = Pad<mode="wrap">(x, z)',
    "Pad by a value": "z = Constant<value_ints=[1,0,-1,2]>() y = Pad(x, z, q)",
    "Slice": """a = Constant<value_ints=[-1]>() b = Constant<value_ints=[-9]>()
        o = Constant<value_ints=[1]>() t = Constant<value_ints=[-2]>() y = Slice(x, a, b, o, t)""",
    "Trilu": "y = Trilu<upper=0>(x)",
    "Range": "r = Range(q, q1, q2) y = Mul(r, q)",
}


def gradient_model(nodes: str) -> ir.Model:
    return model_of(
        f"""g (double[2,4] x, double[2,2] w, double[2] v, double[2] p, double q) => (double y)
        <int64[3] i = {{3, -1, 0}}, int64[2,2] j = {{1, -1, 0, 2}}, int64[2,2] k = {{1, 1, 0, -1}},
         int64[2,1] l = {{-1, 2}}, bool[4] c = {{1, 0, 1, 1}}, int64[2] n = {{3, 2}},
         double p1 = {{2.0}}, double q1 = {{9.0}}, double q2 = {{2.0}}> {{ {nodes} }}""",
        24,
    )


def gradient_inputs() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = [(2, 4), (2, 2), (2,), (2,), ()]
    return [torch.rand(each, generator=random, dtype=torch.float64) + 0.5 for each in sizes]


@pytest.mark.parametrize("nodes", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients(nodes: str) -> None:
    model, inputs = gradient_model(nodes), gradient_inputs()
    read = {value.name for node in model.graph for value in node.inputs if value is not None}
    for value, tensor in zip(model.graph.inputs, inputs, strict=True):
        tensor.requires_grad_(value.name in read)
    assert torch.autograd.gradcheck(OnnxModule(model), inputs)


@pytest.mark.parametrize("name", sorted(GRADIENTS.keys() - {"Range"}))
def test_operators_make_tensors_where_the_inputs_are(name: str) -> None:
    # Tensors of this device mix with none of another one; a range's size is read from one.
    module = OnnxModule(gradient_model(GRADIENTS[name])).to("meta")
    assert module(*[each.to("meta") for each in gradient_inputs()]).device.type == "meta"
