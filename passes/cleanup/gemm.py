"""MatMul, Add and Transpose of matrices as one Gemm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import is_op
from graphopt.rewrite.dims import Dims
from passes.cleanup import merges
from passes.cleanup.affine import FLOATS
from passes.cleanup.merges import Merge, Merged
from passes.cleanup.sites import Site, int_setting, ints_setting, optional_input

_BROADCASTS_SINCE = 7
_OPTIONAL_BIAS_SINCE = 11


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per Add or Transpose that a Gemm can do along the way.

    Only where both factors are matrices: with more axes, Gemm needs a Reshape on either side.
    """
    yield from merges.rewrites(model, _MERGES)


def _product_add(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    """A product without a bias, and the Add that could be it."""
    factors = inner.inputs[:2]
    if optional_input(inner, 2) is not None or site.opset < _BROADCASTS_SINCE:
        return None
    if not _are_float_matrices(factors, site) or any(_is_quantized(value) for value in factors):
        return None
    bias = outer.inputs[1 if outer.inputs[0] is inner.outputs[0] else 0]
    if not _broadcasts(site.shapes.shape(bias), site.shapes.shape(inner.outputs[0])):
        return None
    kept = [value for name, value in inner.attributes.items() if name != "beta"]
    return Merged("Gemm", [*factors, bias], kept)


def _is_quantized(value: ir.Value | None) -> bool:
    """Whether ONNX Runtime would look for a quantized MatMul here."""
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def _broadcasts(shape: Dims | None, goal: Dims | None) -> bool:
    """Whether a bias reaches the product's shape, and does not go beyond it."""
    if shape is None or goal is None or len(shape) > len(goal):
        return False
    aligned = goal[len(goal) - len(shape) :]
    return all(
        size == 1 or (size is not None and size == wanted)
        for size, wanted in zip(shape, aligned, strict=True)
    )


def _transpose_gemm(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    index = next(i for i, value in enumerate(outer.inputs) if value is inner.outputs[0])
    if index > 1 or site.opset < _BROADCASTS_SINCE or not _swaps(inner, site):
        return None
    name = ("transA", "transB")[index]
    turned = int_setting(outer, name, 0)
    if turned is None:
        return None
    inputs = list(outer.inputs)
    inputs[index] = inner.inputs[0]
    attributes = [value for key, value in outer.attributes.items() if key != name]
    return Merged("Gemm", inputs, [*attributes, ir.AttrInt64(name, 0 if turned else 1)])


def _transpose_matmul(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    if site.opset < _OPTIONAL_BIAS_SINCE or not _are_float_matrices(outer.inputs, site):
        return None
    return _transpose_gemm(inner, outer, site)


def _swaps(node: ir.Node, site: Site) -> bool:
    order = ints_setting(node, "perm", None)
    if order is None:
        return "perm" not in node.attributes and site.shapes.rank(node.inputs[0]) == 2
    return list(order) == [1, 0]


def _are_float_matrices(values: Sequence[ir.Value | None], site: Site) -> bool:
    return all(
        site.shapes.rank(value) == 2 and site.shapes.dtype(value) in FLOATS for value in values
    )


_MERGES: dict[tuple[str, str], Merge] = {
    ("MatMul", "Add"): _product_add,
    ("Gemm", "Add"): _product_add,
    ("Transpose", "Gemm"): _transpose_gemm,
    ("Transpose", "MatMul"): _transpose_matmul,
}
