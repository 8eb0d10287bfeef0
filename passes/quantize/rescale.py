"""Multiplying constants with the scales of channels, all or none of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.scaling import Part
from passes.cleanup.folded import Place, put, rounded, scaled

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rescaling:
    """New contents for constants, computed and found to be in range.

    Args:
        tensors: The new tensor of each constant; a shared weight stands here once.
    """

    tensors: tuple[tuple[Part, ir.TensorProtocol], ...]

    def apply(self, model: ir.Model, scope: Scope) -> None:
        """Put the new tensors in."""
        place = Place(model, in_function=scope.function is not None)
        for part, tensor in self.tensors:
            if part.weight is not None:
                part.weight.replace(tensor)
            else:
                old = part.node.inputs[part.index]
                base = old.name if old is not None and old.name else part.node.op_type
                put(part.node, part.index, tensor, f"{base}_scaled", place)


def rescaling(parts: Iterable[Part], scales: Wide) -> Rescaling | str:
    """Compute what constants become; the reason, where one would leave the range of its type."""
    tensors: list[tuple[Part, ir.TensorProtocol]] = []
    seen: set[int] = set()
    for part in parts:
        if part.weight is not None and id(part.weight.value) in seen:
            continue
        tensor, factor = part.tensor, part.factor(scales)
        if part.weight is not None:
            seen.add(id(part.weight.value))
            new = scaled(tensor, factor, tensor.name)
        else:
            values = tensor.numpy().astype(np.float64) * factor
            new = rounded(values, tensor.dtype, tensor.name)
        if new is None:
            return f"{tensor.name!r} would leave the range of {tensor.dtype.name}"
        tensors.append((part, new))
    return Rescaling(tuple(tensors))
