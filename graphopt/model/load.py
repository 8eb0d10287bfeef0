"""Load an ONNX file without trusting it."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from graphopt.errors import GraphoptError
from graphopt.model import wire
from graphopt.model.carried import EXTRAS_KEY, Aside, Extras, move_tags_to_meta
from graphopt.model.external import DataFolder, check_range, reference
from graphopt.model.limits import Limits
from graphopt.model.lossless import differences
from graphopt.model.mapped import MappedFile
from graphopt.model.mount import Mount, Place
from graphopt.model.nesting import check_nesting
from graphopt.model.serialize import innermost, to_skeleton
from graphopt.model.tensor_protos import (
    check_inline,
    data_type,
    filled_fields,
    nbytes,
    quoted,
    visit_tensors,
)
from graphopt.model.training import signatures

__all__ = ["STREAM_KEY", "Limits", "Stream", "load", "load_bytes"]

STREAM_KEY = "graphopt.model.stream"
"""Where `meta` of a model that was read from standard input keeps its `Stream`."""

_STDIN = "<stdin>"
_STREAM_BYTES = (1 << 31) - 1
_PIECE = 1 << 20

_INLINE = 4096
"""Inline data of this many bytes and more are left in the file and mapped."""

_MESSAGES_PER_BODY = 3
_OPSETS_SINCE = 3  # the IR version from which on a model must import opsets
_EXPORT_AGAIN = "export the model again"


@dataclass(frozen=True)
class Stream:
    """What is known of standard input once a model was read from it.

    Args:
        size: Its bytes.
        sha256: Their hash.
    """

    size: int
    sha256: str


def load(path: str | PathLike[str], limits: Limits | None = None) -> ir.Model:
    """Read a model; its weights stay on disk, memory-mapped.

    Weights are `MappedTensor`s, inline ones too; the files stay open, so that a model can be used
    after its files were renamed over. A weight that is stored as a sparse tensor is a
    `SparseTensor`, dense when it is read. What onnx-ir cannot hold is carried in `meta`:
    `graphopt.model.save` and `graphopt.model.to_proto` write it again, `onnx_ir` does not.

    Args:
        path: The model file; `-` reads standard input, to its end.
        limits: What the file may ask for.

    Raises:
        GraphoptError: The file is not a model that can be carried whole.
    """
    limits = limits or Limits()
    name = os.fspath(path)
    if name == "-":
        spool = _spool()
        model = _Loader(_STDIN, spool, None, limits).model()
        model.meta[STREAM_KEY] = Stream(spool.size, hashlib.sha256(spool.map).hexdigest())
        return model
    return _Loader(name, _open(name), str(Path(name).parent), limits).model()


def load_bytes(content: bytes, path: Path, limits: Limits | None = None) -> ir.Model:
    """Read a model that was made of a file of another format, as `load` would.

    Args:
        content: The model, in the binary format.
        path: The file it comes from: named in errors, and external data are beside it.
        limits: What the content may ask for.

    Raises:
        GraphoptError: It is not a model that can be carried whole.
    """
    with tempfile.TemporaryFile() as spool:
        spool.write(content)
        spool.flush()
        file = _checked(os.dup(spool.fileno()), str(path))
    return _Loader(str(path), file, str(path.parent), limits or Limits()).model()


def _spool() -> MappedFile:
    with tempfile.TemporaryFile() as spool:
        while piece := sys.stdin.buffer.read(_PIECE):
            spool.write(piece)
            if spool.tell() > _STREAM_BYTES:
                raise GraphoptError(
                    "is over the 2 GiB that one protobuf message may have",
                    file=_STDIN,
                    fix="name the model's file, with its weights in external data",
                )
        spool.flush()
        return _checked(os.dup(spool.fileno()), _STDIN)


def _open(path: str) -> MappedFile:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise GraphoptError(
            f"cannot be opened: {reason}", file=path, fix="name an ONNX file"
        ) from error
    return _checked(fd, path)


def _checked(fd: int, path: str) -> MappedFile:
    status = os.fstat(fd)
    cause = None
    if stat.S_ISDIR(status.st_mode):
        cause, fix = "is a directory", "name the .onnx file in it"
    elif not stat.S_ISREG(status.st_mode):
        cause, fix = "is no regular file", "pipe the model in and name it -"
    elif status.st_size == 0:
        cause, fix = "is empty", _EXPORT_AGAIN
    if cause is not None:
        os.close(fd)
        raise GraphoptError(cause, file=path, fix=fix)
    return MappedFile(fd, path)


@dataclass
class _Loader:
    name: str
    file: MappedFile
    folder: str | None
    limits: Limits

    def __post_init__(self) -> None:
        self.marker = f"graphopt-{secrets.token_hex(16)}"
        self.data = DataFolder(self.name, self.folder, self.limits)
        self.places: list[Place] = []

    def model(self) -> ir.Model:
        content = self._cut()
        proto = self._parse(content)
        check_nesting(proto, self.limits.max_depth, self.name)
        self._check_training(proto)
        visit_tensors(proto, self._place)
        model = self._deserialize(proto)
        self._check_nothing_lost(self._parse(content), model)
        return model

    def _cut(self) -> bytes:
        depth = _MESSAGES_PER_BODY * (self.limits.max_depth + 2)
        try:
            return wire.cut(
                self.file.map,
                self.marker,
                threshold=_INLINE,
                max_bytes=self.limits.max_bytes,
                max_depth=depth,
            )
        except wire.WireError as error:
            raise self._no_model(str(error)) from error

    def _parse(self, content: bytes) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(content)
        except DecodeError as error:
            depth = _MESSAGES_PER_BODY * (self.limits.max_depth + 2)
            if wire.nests_deeper(content, depth):
                raise self._no_model(
                    f"its graphs or types nest deeper than {self.limits.max_depth}"
                ) from error
            raise self._no_model("a field of it is malformed or cut off") from error
        size = proto.ByteSize()
        if not proto.ir_version or not proto.HasField("graph"):
            raise self._no_model("it has no IR version or no graph")
        if proto.ir_version >= _OPSETS_SINCE and not proto.opset_import:
            raise self._no_model("it names no opset")
        proto.DiscardUnknownFields()
        if proto.ByteSize() != size:
            raise GraphoptError(
                f"it has fields that onnx {onnx.__version__} does not know",
                file=self.name,
                fix="install the onnx version that wrote it, or a newer one",
            )
        return proto

    def _no_model(self, cause: str) -> GraphoptError:
        start = self.file.map[:256]
        if all(byte >= 0x20 or byte in b"\t\n\r" for byte in start):
            return GraphoptError(
                "is a text file, not an ONNX model",
                file=self.name,
                fix="save the model in the binary format",
            )
        return GraphoptError(
            f"is no whole ONNX model: {cause}", file=self.name, fix="fetch or export it again"
        )

    def _check_training(self, proto: onnx.ModelProto) -> None:
        def visit(tensor: onnx.TensorProto) -> None:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise GraphoptError(
                    f"its training_info has external data ({quoted(tensor.name)}), which graphopt "
                    "cannot carry",
                    file=self.name,
                    fix="remove training_info, or store its tensors inside",
                )

        visit_tensors(onnx.ModelProto(training_info=proto.training_info), visit)

    def _place(self, proto: onnx.TensorProto) -> None:
        """Check a tensor; where its data are in a file, remember where and tag it."""
        size = nbytes(proto, self.name, self.limits)
        if proto.data_location != onnx.TensorProto.EXTERNAL:
            check_inline(proto, size, self.name)
            return
        if filled_fields(proto):
            raise GraphoptError(
                f"the tensor {quoted(proto.name)} is external and has data inside",
                file=self.name,
                fix=_EXPORT_AGAIN,
            )
        where = reference(proto, self.name)
        if data_type(proto, self.name) == ir.DataType.STRING:
            raise GraphoptError(
                f"the tensor {quoted(proto.name)} has strings as external data",
                file=self.name,
                fix=_EXPORT_AGAIN,
            )
        inline = where.location == self.marker
        file = self.file if inline else self.data.file(proto, where.location)
        check_range(proto, where, size, file, self.name)
        proto.ClearField("external_data")
        proto.external_data.add(key="location", value=self.marker)
        proto.external_data.add(key="offset", value=str(len(self.places)))
        self.places.append(
            Place(file, where.offset, where.checksum, None if inline else where.location)
        )

    def _deserialize(self, proto: onnx.ModelProto) -> ir.Model:
        aside = Aside(self.marker)
        aside.set_aside(proto)
        try:
            model = ir.from_proto(proto)
        except (ir.serde.SerdeError, ValueError) as error:
            raise GraphoptError(
                f"onnx-ir cannot hold it: {innermost(error)}", file=self.name, fix=_EXPORT_AGAIN
            ) from error
        move_tags_to_meta(model, aside)
        Mount(self.name, self.limits, self.marker, self.places, aside).mount(model)
        extras = model.graph.meta.get(EXTRAS_KEY)
        if isinstance(extras, Extras):
            extras.trained = signatures(model.graph, extras.training)
        return model

    def _check_nothing_lost(self, before: onnx.ModelProto, model: ir.Model) -> None:
        try:
            skeleton = to_skeleton(model)
        except GraphoptError as error:
            raise GraphoptError(
                f"graphopt cannot carry it: {error.cause}", file=self.name, fix=_EXPORT_AGAIN
            ) from error

        def place(index: int, proto: onnx.TensorProto) -> None:
            if isinstance(skeleton.tensors[index], ir.TensorProtoTensor):
                skeleton.inline(index, proto)

        skeleton.fill(place)
        for proto in (before, skeleton.proto):
            visit_tensors(proto, _forget_place)
        lost = list(differences(before, skeleton.proto))
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise GraphoptError(
                f"graphopt cannot carry {', '.join(lost[:3])}{more}",
                file=self.name,
                fix="remove or correct that part of the model",
            )


def _forget_place(proto: onnx.TensorProto) -> None:
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        proto.ClearField("external_data")
        proto.ClearField("data_location")
