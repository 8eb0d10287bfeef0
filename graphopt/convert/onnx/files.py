"""Where an ONNX source is: a file, text, standard input, or a member of a zip archive."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from graphopt.convert.archives import open_archive
from graphopt.convert.onnx.outer_fields import has_graph
from graphopt.convert.onnx.text import read_text
from graphopt.errors import GraphoptError
from graphopt.model import Limits, load
from graphopt.model.tensor_protos import visit_tensors

MAX_UNPACKED_BYTES = 8 << 30
"""What a model and its data may unpack to on disk."""

_SUFFIXES = (".onnx", ".onnxtxt")
_TEXT_START = re.compile(rb"\s*<[^>]*\bir_version\s*:")
_START = 1 << 16
_PIECE = 1 << 20
_STDIN = "-"


def member_of(source: str) -> tuple[Path, str | None]:
    """Split `models.zip:folder/model.onnx` where such an archive is there.

    Returns:
        The file, and the member that is named of it; None: none is.
    """
    if Path(source).exists():
        return Path(source), None
    for match in re.finditer(":", source):
        archive = Path(source[: match.start()])
        if archive.is_file():
            return archive, source[match.end() :]
    return Path(source), None


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model, binary or text, or a zip archive with one in it."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        return bool(_members(path))
    return path.suffix in _SUFFIXES or _is_text(path) or has_graph(path)


def open_model(source: str, limits: Limits) -> ir.Model:
    """Read a model; weights stay on disk where they can.

    Args:
        source: A binary or text file, `-` for standard input, a zip archive of one model, or
            `archive.zip:model.onnx`.
        limits: What it may ask for.

    Raises:
        GraphoptError: There is no such file or member, or it is no model that can be carried whole.
    """
    path, member = member_of(source)
    if source == _STDIN:
        return load(source, limits)
    if member is not None or (path.is_file() and zipfile.is_zipfile(path)):
        return _from_archive(path, member, limits)
    return _read(path, limits)


def _read(path: Path, limits: Limits) -> ir.Model:
    return read_text(path) if path.is_file() and _is_text(path) else load(path, limits)


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _TEXT_START.match(file.read(_START)) is not None
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror}", file=path) from error


def _members(path: Path) -> list[str]:
    """Names of the models in an archive."""
    with open_archive(path) as archive:
        return [
            entry.filename
            for entry in archive.infolist()
            if not entry.is_dir()
            and entry.filename.endswith(_SUFFIXES)
            # What the archiver of macOS adds beside each file.
            and not entry.filename.startswith("__MACOSX/")
        ]


def _from_archive(path: Path, member: str | None, limits: Limits) -> ir.Model:
    """Unpack a model and the data files that it names, and read it.

    The copies are gone when this returns; weights stay mapped as long as the model is in use.
    """
    name = _chosen(path, member)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        # A name that no data file has: what is unpacked decides nothing about where.
        model_file = Path(folder) / f"{secrets.token_hex(16)}{PurePosixPath(name).suffix}"
        with open_archive(path) as archive:
            _unpack(_Unpacking(path, archive), name, model_file)
        try:
            return _read(model_file, limits)
        except GraphoptError as error:
            file = f"{path}:{name}" if error.file in {None, str(model_file)} else error.file
            raise GraphoptError(error.cause, file=file, fix=error.fix) from error


def _unpack(unpack: _Unpacking, name: str, model_file: Path) -> None:
    """Unpack a model, and the data files that it names and the archive has."""
    unpack(name, model_file)
    for location in _locations(model_file):
        inner = _beside(name, location)
        if inner is not None and inner in unpack:
            unpack(inner, model_file.parent / location)


def _chosen(path: Path, member: str | None) -> str:
    found = _members(path)
    if member is None:
        if len(found) == 1:
            return found[0]
        listed = ", ".join(sorted(found)[:5])
        raise GraphoptError(
            f"holds {len(found)} ONNX models" + (f" ({listed})" if found else ""),
            file=path,
            fix=f"name one, as in {path.name}:{min(found, default='model.onnx')}",
        )
    if member not in found:
        listed = ", ".join(sorted(found)[:5]) or "no ONNX model"
        raise GraphoptError(f"has no {member!r}; it holds {listed}", file=path)
    return member


class _Unpacking:
    """Writes members of an archive to files, all of them together no larger than is allowed."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._left = MAX_UNPACKED_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self._archive.namelist()

    def __call__(self, name: str, target: Path) -> None:
        entry = self._archive.getinfo(name)
        free = shutil.disk_usage(target.anchor).free if target.anchor else self._left
        if entry.file_size > min(self._left, free):
            raise self._too_large(name, entry.file_size)
        target.parent.mkdir(parents=True, exist_ok=True)
        # What the archive says of the size may be false: count what comes out.
        with self._archive.open(entry) as packed, target.open("xb") as file:
            while piece := packed.read(_PIECE):
                self._left -= len(piece)
                if self._left < 0:
                    raise self._too_large(name, MAX_UNPACKED_BYTES)
                file.write(piece)

    def _too_large(self, name: str, size: int) -> GraphoptError:
        return GraphoptError(
            f"its member {name} unpacks to {size} bytes and more, which is too large",
            file=self._path,
            fix=f"unpack it yourself where you trust it; {MAX_UNPACKED_BYTES >> 30} GiB are taken",
        )


def _locations(model_file: Path) -> list[str]:
    """Data files that a binary model names; `load` refuses what is malformed."""
    if model_file.suffix != ".onnx" or _is_text(model_file):
        return []
    found: set[str] = set()

    def visit(tensor: onnx.TensorProto) -> None:
        found.update(entry.value for entry in tensor.external_data if entry.key == "location")

    try:
        visit_tensors(onnx.load(str(model_file), load_external_data=False), visit)
    except DecodeError:
        return []
    return sorted(found)


def _beside(name: str, location: str) -> str | None:
    """Name the member that a model's data file is; None where it would be elsewhere."""
    parts = PurePosixPath(location).parts
    if not parts or PurePosixPath(location).is_absolute() or ".." in parts or "\\" in location:
        return None
    return str(PurePosixPath(name).parent / location)
