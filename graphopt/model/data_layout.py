"""Which tensors go into a data file, where in it, and which may stay in the one they are in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from graphopt.model import datafiles
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


def kept(skeleton: Skeleton, indices: list[int], target: Path) -> dict[int, MappedTensor]:
    """Return which of these tensors can stay in the data files that hold them.

    A file must still stand in the very folder of the target as it was opened, under one name, no
    link, and at least half of it must be in use; another model's, only by a name that its saves
    look at. The target's own files stay only if every tensor
    does, and none stays if more bytes are new than would stay: dead bytes never pile up.

    Args:
        skeleton: The model.
        indices: The tensors that are to be external.
        target: The model file.
    """
    candidates: dict[tuple[int, str], dict[int, MappedTensor]] = {}
    for index in indices:
        tensor = skeleton.tensors[index]
        if isinstance(tensor, MappedTensor) and tensor.location is not None:
            candidates.setdefault((id(tensor.file), tensor.location), {})[index] = tensor
    sharable = [group for group in candidates.values() if _may_stay(group, target)]
    stay = {index: tensor for group in sharable for index, tensor in group.items()}
    if len(stay) == len(indices):
        return stay
    stay = {index: tensor for index, tensor in stay.items() if not _is_own(tensor, target)}
    written = sum(skeleton.tensors[index].nbytes for index in indices if index not in stay)
    return stay if written <= _used(stay) else {}


def _may_stay(group: dict[int, MappedTensor], target: Path) -> bool:
    """Whether the target may read the file of these tensors."""
    tensor, folder = next(iter(group.values())), target.parent
    path = folder / (tensor.location or "")
    if not datafiles.may_share(target) and not _is_own(tensor, target):
        return False
    if not tensor.file.is_at(path) or path.is_symlink() or path.stat().st_nlink > 1:
        return False
    if path.resolve().parent != folder.resolve():
        return False  # a save there would not see that it is read here
    return 2 * _used(group) >= tensor.file.size


def _is_own(tensor: MappedTensor, target: Path) -> bool:
    return datafiles.is_own(target, target.parent / (tensor.location or ""))


def _used(group: dict[int, MappedTensor]) -> int:
    return sum({_content(tensor): tensor.nbytes for tensor in group.values()}.values())


def _content(tensor: ir.TensorProtocol) -> object:
    if isinstance(tensor, MappedTensor):
        return id(tensor.file), tensor.offset, tensor.nbytes
    return id(tensor)
