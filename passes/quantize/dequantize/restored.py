"""Weights that are floats again, kept so that two readers of the same integers share them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import onnx_ir as ir

from graphopt.rewrite.grid import Grid
from passes.quantize.dequantize.reals import real
from passes.quantize.dequantize.sites import Site

_SUFFIXES = ("_quantized", "_packed")
"""What quantizers put behind the name of a weight."""

Key = tuple[ir.TensorProtocol, ir.TensorProtocol, ir.TensorProtocol | None, ir.DataType | None]
"""Integers, scale, zero point, and the type of the floats where it is not that of the scale."""


class Restored:
    """The float weights of one run."""

    def __init__(self) -> None:
        self._values: dict[tuple[object, ...], ir.Value] = {}

    def value(self, site: Site, before: ir.Node, key: Key, grid: Grid) -> ir.Value:
        """Return the floats of a weight, from an earlier call or put in front of a node."""
        stored, scale, zero_point, dtype = key
        # By content: the same scales may be stored in the shapes that two readers want.
        parameters = (_contents(scale), None if zero_point is None else _contents(zero_point))
        place = (stored, *parameters, dtype, id(site.scope.graph))
        found = self._values.get(place)
        # A Constant node of a function stands in front of its first reader only.
        if found is None or site.scope.function is not None:
            numbers = real(stored, grid, dtype=dtype)
            found = self._values[place] = site.constant(before, base_name(stored.name), numbers)
        return found


def _contents(tensor: ir.TensorProtocol) -> Hashable:
    return tensor.dtype, hashlib.sha256(tensor.tobytes()).digest()


def base_name(name: str | None) -> str:
    """Return the name that a weight had before a quantizer made it longer."""
    given = name or "weight"
    return next((given.removesuffix(end) for end in _SUFFIXES if given.endswith(end)), given)
