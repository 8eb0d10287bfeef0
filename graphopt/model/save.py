"""Save an ONNX file whole, or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model import datafiles, wire
from graphopt.model.atomic import (
    check_target,
    mode_of,
    one_line_errors,
    second_name,
    staged,
)
from graphopt.model.data_layout import DataLayout, external_indices, kept, new_layout
from graphopt.model.pipelined import Part, write_parts
from graphopt.model.serialize import Skeleton, to_skeleton
from graphopt.model.sparse import as_sparse
from graphopt.model.tensors import MappedTensor

_EXTERNAL_ABOVE = 1_500_000_000
_PROTOBUF_LIMIT = (1 << 31) - 1
_IN_PROTO = 4096


@dataclass(frozen=True)
class Saved:
    """What a save wrote.

    Args:
        path: The model file.
        data_files: Its external data files.
        size: Bytes of all of them.
        sparse_saved: Bytes that sparse storage saved.
        shared: Those of the data files that it goes on reading, and that are not its own: another
            model's, as a rule.
    """

    path: Path
    data_files: tuple[Path, ...]
    size: int
    sparse_saved: int = 0
    shared: tuple[Path, ...] = ()


def save(
    model: ir.Model,
    path: str | PathLike[str],
    *,
    external_data: bool | None = None,
    sparse_storage: bool = False,
) -> Saved:
    """Write a model.

    The file is written beside its final name, flushed, and renamed; data files come first, and
    under a name that no file has. Whatever happens, a model that stood there before still loads,
    and one that was loaded from there can still be used. A symbolic link at `path` is replaced;
    what it points at stays.

    Weights that come from a file unchanged are copied by the kernel; other ones are computed one
    at a time, and written while the next one is. External weights that nobody touched are not even
    copied if the new model file is in the folder of their data file: it refers to them where they
    are, and only the others are written. Dead bytes do not pile up, however often a model is
    edited and saved: all weights are written anew if more bytes are new than would stay, those of
    a file if less than half of it is in use, and those of the model's own data file if any is.

    The data file of `model.onnx` is `model.onnx.data`. When it stands there already, the new data
    first get a numbered name; once the new model file refers to that, they take the old name over
    and the old data go. Old data stay, and the new ones keep their numbered name, when another
    `.onnx` file of the folder mentions the name. Files of other names are never removed.

    Args:
        model: What to write; it stays usable, also when `path` is where it was loaded from.
        path: The model file; `-` writes to standard output.
        external_data: Weights in a file of their own; None: where the model is above 1.5 GB.
        sparse_storage: Store weights as SparseTensor where that is smaller.

    Raises:
        GraphoptError: It cannot be written; what stood there before still loads.
    """
    if os.fspath(path) == "-":
        return _to_stdout(model, external_data, sparse_storage)
    target = Path(path)
    check_target(target)
    try:
        skeleton = to_skeleton(model, as_sparse if sparse_storage else None)
        _check_not_read(skeleton, target)
        with one_line_errors(target):
            return _Save(target, skeleton).run(external_data)
    except GraphoptError as error:
        raise GraphoptError(error.cause, file=error.file or path, fix=error.fix) from error


def _check_not_read(skeleton: Skeleton, target: Path) -> None:
    """Raise GraphoptError where the target is a data file of the model, which it would replace."""
    files = {
        tensor.file.identity: tensor.file
        for tensor in skeleton.tensors
        if isinstance(tensor, MappedTensor) and tensor.location is not None
    }
    if any(file.is_at(target) for file in files.values()):
        raise GraphoptError("holds weights of the model", fix="name another file")


def _to_stdout(model: ir.Model, external_data: bool | None, sparse_storage: bool) -> Saved:
    if external_data:
        raise GraphoptError(
            "a stream cannot have external data", file="<stdout>", fix="name a file"
        )
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.onnx"
        saved = save(model, whole, external_data=False, sparse_storage=sparse_storage)
        with whole.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return Saved(Path("-"), (), saved.size, saved.sparse_saved)


class _Save:
    """One save: the data file, then the model file, then what nobody reads any more."""

    def __init__(self, target: Path, skeleton: Skeleton) -> None:
        self._target = target
        self._skeleton = skeleton
        self._mode = mode_of(target)
        self._located: list[onnx.TensorProto] = []
        self._written: frozenset[Path] = frozenset()

    def run(self, external_data: bool | None) -> Saved:
        total = sum(tensor.nbytes for tensor in self._skeleton.tensors)
        external = total > _EXTERNAL_ABOVE if external_data is None else external_data
        before = datafiles.mentioned(self._target)
        indices = list(external_indices(self._skeleton)) if external else []
        stay = kept(self._skeleton, indices, self._target)
        locations = sorted({tensor.location for tensor in stay.values() if tensor.location})
        files = [self._target.parent / location for location in locations]
        layout = new_layout(self._skeleton, [index for index in indices if index not in stay])
        self._place(layout.offsets, stay)
        if layout.order:
            files.append(self._save_with_data(layout))
        else:
            self._publish_model(None)
        for stale in datafiles.unused(self._target, (before | self._written) - {*files}):
            stale.unlink(missing_ok=True)
        return Saved(
            self._target,
            tuple(files),
            size=sum(path.stat().st_size for path in (self._target, *files)),
            sparse_saved=sum(part.nbytes - part.stored_bytes for part in self._skeleton.sparse),
            shared=tuple(path for path in files if not datafiles.is_own(self._target, path)),
        )

    def _place(self, offsets: dict[int, int], stay: dict[int, MappedTensor]) -> None:
        """Say in each tensor of the skeleton where its data are going to be."""

        def place(index: int, proto: onnx.TensorProto) -> None:
            tensor = self._skeleton.tensors[index]
            if index in stay:
                held = stay[index]
                _locate(proto, held.location, held.offset, held.nbytes, held.checksum)
            elif index in offsets:
                _locate(proto, "", offsets[index], tensor.nbytes)
                self._located.append(proto)
            elif isinstance(tensor, ir.TensorProtoTensor) or tensor.nbytes < _IN_PROTO:
                self._skeleton.inline(index, proto)

        self._skeleton.fill(place)

    def _save_with_data(self, layout: DataLayout) -> Path:
        with staged(datafiles.preferred(self._target), self._mode) as file:
            tensors, offsets = self._skeleton.tensors, layout.offsets
            write_parts(file, (Part(tensors[index], offsets[index]) for index in layout.order))
            path = datafiles.fresh(self._target)
            self._written = frozenset({path})
            try:
                file.publish(path)
                self._publish_model(path.name)
            except BaseException:
                # The model file may have its name already: its folder could not be flushed.
                if datafiles.unused(self._target, self._written):
                    path.unlink(missing_ok=True)
                raise
        return self._settled(path)

    def _settled(self, path: Path) -> Path:
        """Give new data the preferred name, so that equal models have equal bytes.

        At every moment the model file names a data file that is whole.
        """
        wanted = datafiles.preferred(self._target)
        if path == wanted or not datafiles.unused(self._target, frozenset({wanted})):
            return path
        try:
            second_name(path, wanted)
            self._publish_model(wanted.name)
        except OSError:
            # No hard links here, or no space: the model that stands there is whole as it is.
            return wanted if datafiles.mentions(self._target, wanted.name) else path
        return wanted

    def _publish_model(self, location: str | None) -> None:
        for proto in self._located:
            proto.external_data[0].value = location or ""
        lengths = [tensor.nbytes for tensor in self._skeleton.tensors]
        content = self._skeleton.proto.SerializeToString(deterministic=True)
        pieces = wire.splice(content, self._skeleton.marker, lengths)
        size = sum(len(p) if isinstance(p, bytes) else p.length for p in pieces)
        if size > _PROTOBUF_LIMIT:
            raise GraphoptError(
                f"would be {size} bytes with its weights inside, and protobuf holds 2 GB",
                file=self._target,
                fix="store the weights as external data",
            )
        with staged(self._target, self._mode) as file:
            write_parts(
                file,
                (
                    Part(p if isinstance(p, bytes) else self._skeleton.tensors[p.index])
                    for p in pieces
                ),
            )
            file.publish(self._target)


def _locate(
    proto: onnx.TensorProto,
    location: str | None,
    offset: int,
    length: int,
    checksum: str | None = None,
) -> None:
    """Say where the data of a tensor are; the location comes first."""
    entries = {"location": location, "offset": offset, "length": length, "checksum": checksum}
    del proto.external_data[:]
    for key, value in entries.items():
        if value is not None:
            proto.external_data.add(key=key, value=str(value))
