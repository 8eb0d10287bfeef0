"""What kind of PyTorch file a file is, by its content and without unpickling."""

from __future__ import annotations

import enum
import pickletools
import zipfile
from pathlib import Path
from typing import IO

from graphopt.convert.archives import open_archive
from graphopt.errors import GraphoptError

UNREADABLE = "an unreadable pickle"
"""Takes the place of the class that a broken pickle would name."""

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_SAFETENSORS_START = 9

_TENSOR_MODULES = ("torch", "torch._utils", "torch._tensor", "torch.nn.parameter", "torch.storage")
_PLAIN_MODULES = (
    *_TENSOR_MODULES,
    "collections",
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "_codecs",
)


class Kind(enum.Enum):
    """Files that PyTorch writes."""

    PROGRAM = "torch.export program"
    OLD_PROGRAM = "torch.export program of torch 2.7 or older"
    COMPILED = "AOTInductor package"
    TORCHSCRIPT = "TorchScript archive"
    STATE_DICT = "state dict"
    SAFETENSORS = "safetensors file"
    PICKLED = "pickled object"


_LEGACY_PICKLES = 4
"""A file of torch.save of old starts with a magic number, a version, the system, the object."""


def kind_of(path: Path) -> Kind | None:
    """Tell what a file is; None: nothing that PyTorch or safetensors write.

    Raises:
        GraphoptError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SAFETENSORS_START)
        # Before pickles: the length of its header may start as they do.
        if _starts_safetensors(start, path.stat().st_size):
            return Kind.SAFETENSORS
        if start[:4] == _ZIP:
            with open_archive(path) as archive:
                return _kind_of_archive(archive)
        if start[:1] == _PICKLE:
            with path.open("rb") as file:
                return Kind.PICKLED if _legacy_class(file) else Kind.STATE_DICT
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=path) from error
    return None


def _starts_safetensors(start: bytes, size: int) -> bool:
    """Whether a file starts with the length of a header, and that header as a JSON object.

    Source: https://github.com/huggingface/safetensors#format.
    """
    header = int.from_bytes(start[:-1], "little")
    return len(start) == _SAFETENSORS_START and start[-1:] == b"{" and header < size


def pickled_class(path: Path) -> str | None:
    """Name the first class in a file's pickle that is no plain tensor or container."""
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive, archive.open(_pickle_name(archive)) as file:
            return foreign_class(file)
    with path.open("rb") as file:
        return _legacy_class(file)


def foreign_class(file: IO[bytes]) -> str | None:
    """Read the opcodes of a pickle, run none, and name the first class it would import.

    Classes that tensors and plain containers are made of do not count. A pickle that cannot be
    read to its end counts as `UNREADABLE`.
    """
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in {"GLOBAL", "INST"}:
                module, _, name = str(argument).partition(" ")
            elif opcode.name == "STACK_GLOBAL":
                module, name = strings[-2:] if len(strings) > 1 else ("?", "?")
            else:
                if isinstance(argument, str):
                    strings.append(argument)
                continue
            if module not in _PLAIN_MODULES:
                return f"{module}.{name}"
    except (ValueError, KeyError, EOFError, UnicodeDecodeError):
        return UNREADABLE
    return None


def _legacy_class(file: IO[bytes]) -> str | None:
    for _ in range(_LEGACY_PICKLES):
        if found := foreign_class(file):
            return found
    return None


def _kind_of_archive(archive: zipfile.ZipFile) -> Kind | None:
    names = archive.namelist()
    # Every record of an archive that PyTorch writes is below one folder of a free name.
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or "archive_version" in inner:
        if any(name.startswith("data/aotinductor/") for name in inner):
            return Kind.COMPILED
        return Kind.PROGRAM
    if "serialized_exported_program.json" in names:
        return Kind.OLD_PROGRAM
    if "data.pkl" not in inner:
        return None
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    with archive.open(_pickle_name(archive)) as file:
        return Kind.PICKLED if foreign_class(file) else Kind.STATE_DICT


def _pickle_name(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
