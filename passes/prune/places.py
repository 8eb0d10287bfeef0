"""The slices of the tensors of a model: a number for each index of each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite.constants import constant
from graphopt.rewrite.dims import Dims
from graphopt.rewrite.shapes import Shapes

Ids = npt.NDArray[np.int64]
Wide = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """A tensor whose slices can be removed.

    Args:
        value: It holds the tensor.
        reader: The node and the input that read it, where it is a vector that several nodes read:
            each may have a copy of its own. None: all its readers see the same slices.
    """

    value: ir.Value
    reader: tuple[ir.Node, int] | None = None


class Places:
    """Numbers for the slices of places, given out when they are first asked for.

    Args:
        shapes: What is known of shapes.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.count = 0
        self.owners: list[tuple[Place, int]] = []
        self._starts: list[int] = []
        self._table: Ids = np.zeros(0, np.int64)
        self._of: dict[ir.Value, dict[Place, None]] = {}
        self._ids: dict[tuple[Place, int], Ids] = {}
        self._groups: dict[Place, int] = {}

    def read(self, node: ir.Node, index: int) -> Place | None:
        """Return what a node reads as an input; None where it leaves the input out."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        tensor = constant(value)
        if tensor is not None and len(value.uses()) > 1 and _is_vector(tensor):
            return Place(value, (node, index))
        return Place(value)

    def dims(self, place: Place) -> Dims | None:
        """Return the sizes of a place; None where not even the rank is known."""
        return self.shapes.shape(place.value)

    def cut_in_groups(self, place: Place, groups: int) -> None:
        """Let axis 1 have slices of its own in each of so many runs of axis 0."""
        self._groups[place] = groups

    def groups(self, place: Place, axis: int) -> int:
        """Return how many runs of axis 0 have their own slices along an axis; mostly 1."""
        return self._groups.get(place, 1) if axis == 1 else 1

    def ids(self, place: Place, axis: int) -> Ids | None:
        """Return the numbers of the slices along an axis; None where it has none or only one."""
        known = self._ids.get((place, axis))
        if known is not None:
            return known
        dims = self.dims(place)
        size = dims[axis] if dims is not None and 0 <= axis < len(dims) else None
        if not isinstance(size, int):
            return None
        size *= self.groups(place, axis)
        if size < 2:
            return None
        found = np.arange(self.count, self.count + size, dtype=np.int64)
        self._starts.append(self.count)
        self.owners.append((place, axis))
        self._of.setdefault(place.value, {})[place] = None
        self.count += size
        self._ids[place, axis] = found
        return found

    def known(self, place: Place, axis: int) -> Ids | None:
        """Return the numbers of the slices along an axis where they were ever asked for."""
        return self._ids.get((place, axis))

    def owner_of(self, ids: Ids) -> Ids:
        """Return the indices in `owners` of the axes that slices belong to."""
        if self._table.size != len(self._starts):
            self._table = np.asarray(self._starts, np.int64)
        return np.searchsorted(self._table, ids, side="right") - 1

    def of(self, value: ir.Value) -> tuple[Place, ...]:
        """Return the places with slices that hold a tensor of a value."""
        return tuple(self._of.get(value, ()))


def _is_vector(tensor: ir.TensorProtocol) -> bool:
    sizes: list[Any] = [size for size in tensor.shape.numpy() if size != 1]
    return len(sizes) <= 1
