"""External data of an untrusted model: which files it may name, and which bytes of them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt.errors import GraphoptError
from graphopt.model.limits import Limits
from graphopt.model.mapped import MappedFile
from graphopt.model.tensor_protos import quoted

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_EXPORT_AGAIN = "export the model again"


@dataclass(frozen=True)
class Reference:
    """Where a tensor says that its data are.

    Args:
        location: A path relative to the model's folder, with `/` between its parts.
        offset: Of the first byte.
        length: In bytes; None where the model does not say.
        checksum: The SHA1 of the data file, if the model says one.
    """

    location: str
    offset: int
    length: int | None
    checksum: str | None


def reference(proto: onnx.TensorProto, file: str) -> Reference:
    """Read the `external_data` of a tensor.

    Raises:
        GraphoptError: A key is unknown, missing, or there twice, or a number is none.
    """
    entries: dict[str, str] = {}
    for entry in proto.external_data:
        if entry.key not in _KEYS:
            known = ", ".join(sorted(_KEYS))
            raise _refused(
                proto, file, f"has the unknown external_data key {quoted(entry.key)}", known
            )
        if entry.key in entries:
            raise _refused(proto, file, f"has the external_data key {quoted(entry.key)} twice")
        entries[entry.key] = entry.value
    if not entries.get("location"):
        raise _refused(proto, file, "is external and has no location")
    return Reference(
        entries["location"],
        _number(proto, file, "offset", entries.get("offset", "0")),
        _number(proto, file, "length", entries["length"]) if "length" in entries else None,
        entries.get("checksum"),
    )


def _number(proto: onnx.TensorProto, file: str, key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _refused(proto, file, f"has the {key} {quoted(text)}, which is no byte count")
    return int(text)


def _refused(
    proto: onnx.TensorProto, file: str, cause: str, known: str | None = None
) -> GraphoptError:
    fix = _EXPORT_AGAIN if known is None else f"only {known} are known: {_EXPORT_AGAIN}"
    return GraphoptError(f"the tensor {quoted(proto.name)} {cause}", file=file, fix=fix)


class DataFolder:
    """The folder of a model, and the data files in it that were opened: each one once.

    Args:
        model: The model file, for messages.
        folder: Where locations start; None for a stream, which has no folder.
        limits: Whether symbolic and hard links are followed.
    """

    def __init__(self, model: str, folder: str | None, limits: Limits) -> None:
        self._model = model
        self._folder = folder
        self._limits = limits
        self._opened: dict[str, MappedFile] = {}

    def file(self, proto: onnx.TensorProto, location: str) -> MappedFile:
        """Open the data file of a tensor.

        Raises:
            GraphoptError: The location leaves the folder, or is no readable regular file.
        """
        opened = self._opened.get(location)
        if opened is None:
            opened = self._opened[location] = self._open(proto, location)
        return opened

    def _open(self, proto: onnx.TensorProto, location: str) -> MappedFile:
        if self._folder is None:
            raise GraphoptError(
                f"the tensor {quoted(proto.name)} is in {quoted(location)}, and a stream has no "
                "folder",
                file=self._model,
                fix="load the model from its file",
            )
        if self._leaves(location):
            raise _refused(
                proto, self._model, f"is in {quoted(location)}, which leaves the model's folder"
            )
        path = Path(self._folder) / location
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            reason = error.strerror or "cannot be opened"
            raise GraphoptError(
                f"the tensor {quoted(proto.name)} is in {quoted(location)}: {reason}",
                file=self._model,
                fix="put the data file where the model expects it",
            ) from error
        try:
            self._check(proto, location, path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return MappedFile(fd, str(path))

    def _leaves(self, location: str) -> bool:
        path = Path(os.path.normpath(location))
        return "\0" in location or path.is_absolute() or os.pardir in path.parts

    def _check(
        self, proto: onnx.TensorProto, location: str, path: Path, status: os.stat_result
    ) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _refused(
                proto, self._model, f"is in {quoted(location)}, which is no regular file"
            )
        if self._limits.follow_symlinks:
            return
        cause = None
        real = path.resolve()
        if not real.is_relative_to(Path(self._folder or ".").resolve()):
            cause = "a symbolic link that leaves the model's folder"
        elif not os.path.samestat(real.stat(), status):
            cause = "a file that changed while it was opened"
        elif status.st_nlink > 1 and _links_inside(real.parent, status) < status.st_nlink:
            cause = "a hard link to a file elsewhere"
        if cause is not None:
            raise GraphoptError(
                f"the tensor {quoted(proto.name)} is in {quoted(location)}, {cause}",
                file=self._model,
                fix="copy the data file into the folder, or allow links with --follow-symlinks",
            )


def _links_inside(folder: Path, status: os.stat_result) -> int:
    """Count the names of a file in its folder."""
    with os.scandir(folder) as entries:
        return sum(entry.inode() == status.st_ino for entry in entries)


def check_range(
    proto: onnx.TensorProto, place: Reference, nbytes: int, file: MappedFile, model: str
) -> None:
    """Raise GraphoptError unless a tensor's bytes lie in its data file and fit its shape."""
    if place.length is not None and place.length != nbytes:
        raise _refused(
            proto, model, f"says {place.length} bytes of data, and its shape takes {nbytes}"
        )
    if place.offset + nbytes > file.size:
        raise GraphoptError(
            f"the tensor {quoted(proto.name)} ends at byte {place.offset + nbytes} of "
            f"{quoted(place.location)}, which has {file.size}",
            file=model,
            fix="fetch the data file again, whole",
        )
