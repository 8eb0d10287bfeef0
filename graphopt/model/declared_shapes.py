"""Declared shapes, as tuples and as text."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

Dims = tuple[int | str | None, ...]
"""One entry per dimension: its size, its symbol, or None where neither is known."""


def dims_of(value: ir.Value) -> Dims | None:
    """Return the declared shape of a value; None where not even the rank is declared."""
    if value.shape is None:
        return None
    return tuple(_size(dim) for dim in value.shape)


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, int):
        # Some exporters write -1 for what they do not know.
        return dim if dim >= 0 else None
    return dim.value


def shape_text(dims: Sequence[int | str | None]) -> str:
    """Write a shape: [batch, 3, ?]."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
