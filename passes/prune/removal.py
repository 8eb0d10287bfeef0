"""Takes slices out of tensors, and brings what names their sizes in line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, add_initializer, constant, hold
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import remove_unread
from passes.prune.coupling import Coupling, Kept
from passes.prune.places import Ids, Mask, Place, Places, Wide


class Removal(Kept):
    """The slices of a model that are still there.

    Args:
        model: What is edited.
        coupling: Its slices.
    """

    def __init__(self, model: ir.Model, coupling: Coupling) -> None:
        self._model = model
        self._coupling = coupling
        self._left = np.ones(coupling.places.count, np.bool_)
        self._originals: dict[Place, ir.TensorProtocol] = {}

    @property
    def _places(self) -> Places:
        return self._coupling.places

    def mask(self, place: Place, axis: int) -> Mask | None:
        """Say for each slice whether it is still there; None where an axis has no slices."""
        ids = self._places.known(place, axis)
        return None if ids is None else self._left[ids]

    def size(self, place: Place, axis: int) -> int | None:
        """Return the size that an axis has now; None where it is not known."""
        mask = self.mask(place, axis)
        if mask is not None:
            return int(mask.sum()) // self._places.groups(place, axis)
        dims = self._places.dims(place)
        size = dims[axis] if dims is not None and axis < len(dims) else None
        return size if isinstance(size, int) else None

    def shift(self, place: Place, by: Wide) -> None:
        """Add numbers to a vector of floats, one for each slice that it had at first."""
        original = self._original(place)
        shifted = (original.numpy().astype(np.float64) + by).astype(original.dtype.numpy())
        self._originals[place] = ir.tensor(shifted, name=original.name)
        self._cut(place)

    def remove(self, ids: Ids) -> None:
        """Take slices out of all tensors they belong to."""
        self._left[ids] = False
        owners = np.unique(self._places.owner_of(ids)).tolist()
        nodes: dict[ir.Node, None] = {}
        for place in dict.fromkeys(self._places.owners[owner][0] for owner in owners):
            nodes.update(dict.fromkeys(_around(place)))
            if place in self._originals or constant(place.value) is not None:
                self._cut(place)
            else:
                self._resize(place)
        for node in nodes:
            if node in self._coupling.adjusters:
                self._coupling.adjusters[node](self)

    def _original(self, place: Place) -> ir.TensorProtocol:
        """Return what a place held before anything was taken out of it."""
        if place not in self._originals:
            held = constant(place.value)
            if held is None:
                raise ValueError(f"{place.value.name!r} is no constant any more")
            self._originals[place] = held
        return self._originals[place]

    def _cut(self, place: Place) -> None:
        tensor = self._rest(place, self._original(place))
        if place.reader is None:
            hold(place.value, tensor)
            return
        node, index = place.reader
        before = node.inputs[index]
        graph = node.graph
        if graph is None or before is None:
            raise ValueError(f"{place.value.name!r} is not read any more")
        if before is not place.value:
            hold(before, tensor)
            return
        name = Names.of(self._model).fresh(f"{before.name}_pruned")
        node.replace_input_with(index, add_initializer(graph, name, tensor))
        remove_unread([before])

    def _rest(self, place: Place, original: ir.TensorProtocol) -> ir.LazyTensor:
        """Return what is left of a tensor; it is computed when it is read."""
        rank = len(original.shape)
        masks = [self.mask(place, axis) for axis in range(rank)]
        groups = self._places.groups(place, 1) if rank > 1 else 1
        sizes = [
            int(size) if mask is None else int(mask.sum()) // self._places.groups(place, axis)
            for axis, (size, mask) in enumerate(zip(original.shape.numpy(), masks, strict=True))
        ]

        def evaluate() -> ir.TensorProtocol:
            taken = _taken(original.numpy(), masks, groups)
            return ir.Tensor(taken, dtype=original.dtype, name=original.name)

        return ir.LazyTensor(
            evaluate,
            original.dtype,
            ir.Shape(sizes),
            name=original.name,
            doc_string=original.doc_string,
            metadata_props=dict(original.metadata_props),
        )

    def _resize(self, place: Place) -> None:
        """Bring the declared shape of a computed value in line."""
        shape = place.value.shape
        if shape is None:
            return
        masks = [self.mask(place, axis) for axis in range(len(shape))]
        place.value.shape = ir.Shape(
            dim if mask is None or mask.all() else int(mask.sum())
            for dim, mask in zip(shape, masks, strict=True)
        )


def _around(place: Place) -> list[ir.Node]:
    """Return the nodes that write or read a tensor."""
    if place.reader is not None:
        return [place.reader[0]]
    producer = place.value.producer()
    readers = [node for node, _ in place.value.uses()]
    return readers if producer is None else [producer, *readers]


def _taken(stored: Array, masks: Sequence[Mask | None], groups: int) -> Array:
    """Return what is left of a tensor; with groups, each run of rows has columns of its own."""
    for axis, mask in enumerate(masks):
        if mask is not None and (axis != 1 or groups == 1):
            stored = np.compress(mask, stored, axis=axis)
    columns = masks[1] if groups > 1 else None
    if columns is not None:
        runs = zip(np.split(stored, groups), columns.reshape(groups, -1), strict=True)
        stored = np.concatenate([np.compress(own, rows, axis=1) for rows, own in runs])
    return np.ascontiguousarray(stored)
