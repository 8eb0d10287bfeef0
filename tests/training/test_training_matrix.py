"""Products of matrices in PyTorch, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from against_onnx_runtime import Array, compare, computed, model_of, same
from held_constants import OPSET, module

from graphopt.training.operators.matrix import product_by_sums

KINDS = {"float": "float32", "double": "float64"}
INTEGERS = ["int32", "int64", "uint32", "uint64"]


def declared(dtype: str, array: Array, name: str) -> str:
    return f"{dtype}[{', '.join(map(str, array.shape))}] {name}"


def of(graph: str, *outputs: str) -> ir.Model:
    """Read a model, with outputs of unknown ranks."""
    model = model_of(graph, OPSET)
    for output in model.graph.outputs:
        output.shape = None
    return model


def random(*shape: int, dtype: str = "float") -> Array:
    values = np.random.default_rng(sum(shape)).normal(size=shape) * 5
    return np.asarray(np.abs(values) if dtype[0] == "u" else values).astype(KINDS.get(dtype, dtype))


SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((4,), (2, 4, 5)),
    ((2, 3, 4), (4,)),
    ((0, 4), (4, 5)),
]


@pytest.mark.parametrize(("first", "second"), SHAPES)
@pytest.mark.parametrize("dtype", ["float", "double", *INTEGERS])
def test_products(dtype: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    a, b = random(*first, dtype=dtype), random(*second, dtype=dtype)
    inputs = f"{declared(dtype, a, 'a')}, {declared(dtype, b, 'b')}"
    compare(of(f"g ({inputs}) => ({dtype} y) {{ y = MatMul(a, b) }}"), a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), SHAPES)
def test_products_where_pytorch_multiplies_no_integers(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    a, b = (torch.from_numpy(random(*each, dtype="int32")) for each in (first, second))
    found = product_by_sums(a, b)
    assert found.dtype == torch.int32
    assert torch.equal(found, torch.matmul(a, b))


def test_products_of_integers_wrap() -> None:
    a, b = np.full((1, 2), 2**63, np.uint64), np.array([[3], [2]], np.uint64)
    inputs = f"{declared('uint64', a, 'a')}, {declared('uint64', b, 'b')}"
    model = of(f"g ({inputs}) => (uint64 y) {{ y = MatMul(a, b) }}")
    same(computed(model, a, b), [np.array([[2**63]], np.uint64)], 0, 0)


@pytest.mark.parametrize("c", [None, (), (1,), (5,), (3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("attributes", ["", "transA=1", "transB=1", "alpha=0.5, beta=-2.0"])
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_affine_functions(dtype: str, attributes: str, c: tuple[int, ...] | None) -> None:
    a = random(*((4, 3) if "transA" in attributes else (3, 4)), dtype=dtype)
    b = random(*((5, 4) if "transB" in attributes else (4, 5)), dtype=dtype)
    arrays = [a, b] if c is None else [a, b, random(*c, dtype=dtype)]
    inputs = ", ".join(declared(dtype, each, "abc"[i]) for i, each in enumerate(arrays))
    used = ", ".join("abc"[: len(arrays)])
    form = f"<{attributes}>" if attributes else ""
    model = of(f"g ({inputs}) => ({dtype} y) {{ y = Gemm{form}({used}) }}")
    compare(model, *arrays, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "uint64"])
def test_affine_functions_of_integers(dtype: str) -> None:
    a, b, c = random(3, 4, dtype=dtype), random(4, 5, dtype=dtype), random(5, dtype=dtype)
    inputs = ", ".join(
        declared(dtype, each, name) for name, each in zip("abc", (a, b, c), strict=True)
    )
    model = of(f"g ({inputs}) => ({dtype} y) {{ y = Gemm<alpha=2.0, beta=3.0>(a, b, c) }}")
    three = np.asarray(3, dtype)
    same(computed(model, a, b, c), [(a @ b) * np.asarray(2, dtype) + three * c], 0, 0)


EQUATIONS = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("bij, bjk -> bik", [(2, 3, 4), (2, 4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)]),
    ("ii->i", [(4, 4)]),
    ("ii", [(4, 4)]),
    ("ij->ji", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,ij,j->", [(3,), (3, 4), (4,)]),
    ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
@pytest.mark.parametrize("dtype", ["float", "double", "int32", "int64"])
def test_named_axes(dtype: str, equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = [random(*each, dtype=dtype) for each in shapes]
    inputs = ", ".join(declared(dtype, each, "abc"[i]) for i, each in enumerate(arrays))
    used = ", ".join("abc"[: len(arrays)])
    model = of(f'g ({inputs}) => ({dtype} y) {{ y = Einsum<equation="{equation}">({used}) }}')
    compare(model, *arrays, rtol=1e-5, atol=1e-4)


def test_named_axes_of_unsigned_integers() -> None:
    a, b = random(3, 4, dtype="uint16"), random(4, 5, dtype="uint16")
    inputs = f"{declared('uint16', a, 'a')}, {declared('uint16', b, 'b')}"
    model = of(f'g ({inputs}) => (uint16 y) {{ y = Einsum<equation="ij,jk->ik">(a, b) }}')
    same(computed(model, a, b), [a @ b], 0, 0)


@pytest.mark.parametrize("shape", [(2, 2), (4, 3, 3), (2, 3, 4, 4)])
def test_determinants(shape: tuple[int, ...]) -> None:
    a = random(*shape)
    compare(of(f"g ({declared('float', a, 'a')}) => (float y) {{ y = Det(a) }}"), a, rtol=1e-4)


def test_determinants_of_half_precision() -> None:
    a = np.array([[1, 2], [3, 5]], np.float16)
    model = of("g (float16[2, 2] a) => (float16 y) { y = Det(a) }")
    same(computed(model, a), [np.array(-1, np.float16)], 1e-3, 0)


def codes(dtype: str, *shape: int) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(len(shape)).integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("points", [0, 1, 2])
@pytest.mark.parametrize("second", ["int8", "uint8"])
@pytest.mark.parametrize("first", ["int8", "uint8"])
def test_products_of_codes(first: str, second: str, points: int) -> None:
    a, b = codes(first, 2, 3, 400), codes(second, 400, 5)
    given = [codes(first), codes(second, 5)][:points]
    names = ["a_zero", "b_zero"][:points]
    inputs = [declared(first, a, "a"), declared(second, b, "b")]
    inputs += [f"{first} a_zero", f"{second}[5] b_zero"][:points]
    used = ", ".join(["a", "b", *names])
    model = of(f"g ({', '.join(inputs)}) => (int32 y) {{ y = MatMulInteger({used}) }}")
    compare(model, a, b, *given)


def test_zero_points_of_rows() -> None:
    a, b, points = codes("uint8", 3, 4), codes("uint8", 4, 5), codes("uint8", 3)
    inputs = "uint8[3, 4] a, uint8[4, 5] b, uint8[3] p"
    model = of(f"g ({inputs}) => (int32 y) {{ y = MatMulInteger(a, b, p) }}")
    wanted = (a.astype(np.int32) - points[:, None].astype(np.int32)) @ b.astype(np.int32)
    same(computed(model, a, b, points), [wanted], 0, 0)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(
    ("first", "second"), [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")]
)
def test_quantized_products(first: str, second: str, columns: bool) -> None:
    a, b = codes(first, 6, 40), codes(second, 40, 5)
    size = (5,) if columns else ()
    scales = np.asarray(np.random.default_rng(6).uniform(0.01, 0.05, size), np.float32)
    arrays = [a, np.array(0.02, np.float32), codes(first), b, scales]
    arrays += [np.full(size, 3, second), np.array(0.4, np.float32), np.array(100, first)]
    types = [first, "float", first, second, "float", second, "float", first]
    inputs = ", ".join(
        declared(dtype, array, f"i{index}") if array.ndim else f"{dtype} i{index}"
        for index, (dtype, array) in enumerate(zip(types, arrays, strict=True))
    )
    used = ", ".join(f"i{index}" for index in range(8))
    model = of(f"g ({inputs}) => ({first} y) {{ y = QLinearMatMul({used}) }}")
    compare(model, *arrays)


def test_gradients_and_any_batch() -> None:
    graph = "g (float[N, 3] x) => (float[N, 2] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6},"
    graph += " float[2] b = {1, 2}> { y = Gemm<transB=1>(x, w, b) }"
    own = module(model_of(graph, OPSET))
    own(torch.ones(4, 3)).sum().backward()
    gradients = {name: each.grad for name, each in own.named_parameters()}
    assert gradients["w"].tolist() == [[4.0] * 3] * 2
    assert gradients["b"].tolist() == [4.0, 4.0]
    dims = {"inputs": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(own, (torch.rand(4, 3),), dynamic_shapes=dims).module()
    x = torch.rand(7, 3)
    torch.testing.assert_close(exported(x), own(x))
