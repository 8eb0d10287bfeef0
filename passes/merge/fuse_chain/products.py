"""Products of weights: computed in double precision, rounded once, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from passes.cleanup.affine import Wide
from passes.merge.fuse_chain.links import Link
from passes.merge.fuse_siblings.sources import RefusedError

_LAZY_BYTES = 4 << 20
"""Larger weights are computed anew where they are read, from where their factors lie."""

_BLOCK = 1 << 20
"""Elements of each factor that are widened at a time."""

_NEGLIGIBLE = 1e-36
"""An error of a weight that needs activations beyond 1e30 to be seen."""

_STEPS = {
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
}
"""The distance from 1 to the next number."""


@dataclass(frozen=True)
class Product:
    """The weight of one node that stands for two.

    Args:
        link: The two.
        first: The weight of the first.
        second: The weight of the second, of the same type.
    """

    link: Link
    first: ir.TensorProtocol
    second: ir.TensorProtocol

    @property
    def is_large(self) -> bool:
        """Whether it is computed only where it is read."""
        return math.prod(self.link.weight_shape) * self.first.dtype.itemsize > _LAZY_BYTES

    def computed(self) -> Array:
        """Multiply, and round once."""
        found = []
        for left, right in self.link.matrices(self.first.numpy(), self.second.numpy()):
            result = np.empty((left.shape[0], right.shape[1]), left.dtype)
            for rows, columns, block in _blocks(left, right, self.link.factor):
                result[rows, columns] = _rounded(block, result.dtype)
            found.append(result)
        return self.link.arrange(found)

    def checked(self) -> Array | None:
        """Multiply, round once, and check; None where it is large.

        Raises:
            RefusedError: It overflows, or is so small for its type that rounding shows.
        """
        found = []
        for left, right in self.link.matrices(self.first.numpy(), self.second.numpy()):
            size = (0, 0) if self.is_large else (left.shape[0], right.shape[1])
            result = np.empty(size, left.dtype)
            for rows, columns, block in _blocks(left, right, self.link.factor):
                kept = _rounded(block, left.dtype)
                _check(kept, block, self.first.dtype)
                if not self.is_large:
                    result[rows, columns] = kept
            found.append(result)
        return None if self.is_large else self.link.arrange(found)


class Products:
    """Products that are computed once for a model and its copies, which share the weights."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], tuple[Product, Array | RefusedError | None]] = {}

    def tensor(self, at: str, product: Product) -> ir.TensorProtocol:
        """Return the weight of the pair at a place, lazy if it is large.

        Raises:
            RefusedError: It overflows, or is so small for its type that rounding shows.
        """
        key = (at, id(product.first), id(product.second))
        if key not in self._known:
            # The product keeps its weights alive, so that no other one takes their ids.
            self._known[key] = (product, _checked(product))
        _, found = self._known[key]
        dtype = product.first.dtype
        if isinstance(found, RefusedError):
            raise found
        if found is not None:
            return ir.Tensor(found, dtype=dtype)
        return ir.LazyTensor(
            lambda: ir.Tensor(product.computed(), dtype=dtype),
            dtype=dtype,
            shape=ir.Shape(product.link.weight_shape),
            cache=False,
        )


def _checked(product: Product) -> Array | RefusedError | None:
    try:
        return product.checked()
    except RefusedError as refusal:
        return refusal


def _rounded(block: Wide, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return block.astype(dtype)


def _check(kept: Array, block: Wide, dtype: ir.DataType) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        wide = kept.astype(np.float64)
        error = np.linalg.norm(wide - block, axis=1)
    if not np.isfinite(wide).all():
        raise RefusedError(f"the product of their weights leaves the range of {dtype.name}")
    if not (error <= _STEPS[dtype] * np.linalg.norm(block, axis=1) + _NEGLIGIBLE).all():
        raise RefusedError(f"the product of their weights is too small for {dtype.name}")


def _blocks(left: Array, right: Array, factor: float) -> Iterator[tuple[slice, slice, Wide]]:
    """Yield a product in blocks of rows and columns, in double precision."""
    step = max(1, _BLOCK // max(1, left.shape[1]))
    for start in range(0, right.shape[1], step):
        columns = slice(start, start + step)
        wide = right[:, columns].astype(np.float64) * factor
        for row in range(0, left.shape[0], step):
            rows = slice(row, row + step)
            with np.errstate(over="ignore", invalid="ignore"):
                yield rows, columns, left[rows].astype(np.float64) @ wide
