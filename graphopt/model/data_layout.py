"""Which tensors go into a data file, where in it, and whether one that exists will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from graphopt.model.serialize import Skeleton
from graphopt.model.tensors import MappedTensor

_PAGE = 4096
"""Data of this size and more start on a page, so that they can be mapped and reflinked."""

_INITIALIZER = 1024
_ATTRIBUTE = 1 << 20


@dataclass
class DataLayout:
    """What a data file holds.

    Args:
        offsets: Of the first byte of each tensor in it, by the index of the tensor.
        order: The indices of tensors to write, ascending by offset; equal data are there once.
        size: Bytes of the file.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, index: int, tensor: ir.TensorProtocol, known: dict[object, int]) -> None:
        """Give a tensor its place."""
        key = _content(tensor)
        if key in known:
            self.offsets[index] = known[key]
            return
        if tensor.nbytes >= _PAGE:
            self.size = -(-self.size // _PAGE) * _PAGE
        known[key] = self.offsets[index] = self.size
        self.order.append(index)
        self.size += tensor.nbytes


def external_indices(skeleton: Skeleton) -> Iterator[int]:
    """Yield the tensors that a data file is to hold.

    Initializers from 1 KiB, and tensors in attributes from 1 MiB or that were in one before.
    """
    for index, tensor in enumerate(skeleton.tensors):
        if index in skeleton.sparse_parts:
            continue  # ONNX Runtime reads no external sparse initializers
        least = _INITIALIZER if skeleton.initializers[index] else _ATTRIBUTE
        was_external = isinstance(tensor, MappedTensor) and tensor.location is not None
        if tensor.nbytes >= least or (was_external and tensor.nbytes):
            yield index


def new_layout(skeleton: Skeleton, indices: list[int]) -> DataLayout:
    """Lay a new data file out."""
    layout = DataLayout()
    known: dict[object, int] = {}
    for index in indices:
        layout.add(index, skeleton.tensors[index], known)
    return layout


def referenced(skeleton: Skeleton, indices: list[int], folder: Path) -> Path | None:
    """Return the data file that already holds all these tensors, if they may go on sharing it.

    All of them must come from one file, which must still stand in the folder as it was opened,
    under one name and no link, and at least half of it must be in use.
    """
    mapped: list[MappedTensor] = []
    for index in indices:
        tensor = skeleton.tensors[index]
        if isinstance(tensor, MappedTensor):
            mapped.append(tensor)
    if not mapped or len(mapped) < len(indices):
        return None
    file, location = mapped[0].file, mapped[0].location
    if location is None or not all(_in(tensor, mapped[0]) for tensor in mapped):
        return None
    path = folder / location
    if not file.is_at(path) or path.is_symlink() or path.stat().st_nlink > 1:
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    used = sum({tensor.offset: tensor.nbytes for tensor in mapped}.values())
    return path if 2 * used >= file.size else None


def _in(tensor: MappedTensor, other: MappedTensor) -> bool:
    return tensor.file is other.file and tensor.location == other.location


def _content(tensor: ir.TensorProtocol) -> object:
    if isinstance(tensor, MappedTensor):
        return id(tensor.file), tensor.offset, tensor.nbytes
    return id(tensor)
