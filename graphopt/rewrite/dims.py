"""Sizes that are known, symbolic or unknown."""

from __future__ import annotations

import re
from collections import Counter

import onnx_ir as ir

Dim = int | str | None
"""A size: known, the same wherever the same symbol stands, or unknown."""

Dims = tuple[Dim, ...]

_SYMBOL = re.compile(r"[A-Za-z_][\w.:/+*() -]*\Z")
_PLACEHOLDERS = frozenset({"none", "unknown", "dynamic", "dyn", "any", "null", "nan", "unk"})
"""Names that exporters write for "not known", whatever ONNX says about equal names."""


def declared_dims(shape: ir.Shape | None) -> Dims | None:
    """Read the declared shape of a graph input.

    A symbol that stands twice in one shape, or that exporters use as a placeholder, is taken for
    unknown: too many files name every dynamic size alike.
    """
    if shape is None:
        return None
    dims = tuple(_declared(dim) for dim in shape)
    count = Counter(dims)
    return tuple(None if isinstance(dim, str) and count[dim] > 1 else dim for dim in dims)


def _declared(dim: int | ir.SymbolicDim) -> Dim:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    name = dim.value
    if not isinstance(name, str) or not _SYMBOL.match(name) or name.lower() in _PLACEHOLDERS:
        return None
    return name


def equal_dims(first: Dims | None, second: Dims | None) -> bool:
    """Whether two shapes are known, and known to be equal."""
    if first is None or second is None or len(first) != len(second):
        return False
    return all(a is not None and a == b for a, b in zip(first, second, strict=True))


def static(dims: Dims | None) -> tuple[int, ...] | None:
    """Return the sizes where all of them are known numbers."""
    if dims is None:
        return None
    sizes = tuple(size for size in dims if isinstance(size, int))
    return sizes if len(sizes) == len(dims) else None
