"""Read npz archives without pickle: mapped where stored, bounded where compressed."""

from __future__ import annotations

import lzma
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError

Array = npt.NDArray[Any]

MAX_UNPACKED_BYTES = 8 << 30
"""What the compressed members of one archive may unpack to in memory, together."""

_BROKEN = (OSError, RuntimeError, OverflowError, EOFError, zlib.error, lzma.LZMAError)
"""What zipfile raises where members are broken; NotImplementedError is a RuntimeError."""

_LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name (APPNOTE.TXT 4.3.7)."""


def read_npz(path: Path, *, max_unpacked: int = MAX_UNPACKED_BYTES) -> dict[str, Array]:
    """Return the arrays of an archive by name.

    Args:
        path: The archive. It is mapped: keep it in place while the arrays are in use.
        max_unpacked: The most bytes that compressed members may take up in memory, together.

    Raises:
        GraphoptError: It cannot be read, is empty, holds an object array, the same name twice, a
            member that is no array or is cut off, or unpacks to more than `max_unpacked`.
    """
    arrays: dict[str, Array] = {}
    budget = max_unpacked
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    raise GraphoptError(f"member {name!r} is no .npy array", file=path)
                if name in arrays:
                    raise GraphoptError(f"array {name!r} stands in it twice", file=path)
                arrays[name] = _read_member(path, archive, member, name, budget)
                if member.compress_type != zipfile.ZIP_STORED:
                    budget -= arrays[name].nbytes
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise GraphoptError(
            f"is no npz archive ({error})", file=path, fix="write it with numpy.savez"
        ) from None
    except _BROKEN as error:
        raise GraphoptError(f"cannot be read: {_reason(error)}", file=path) from None
    if not arrays:
        raise GraphoptError("holds no arrays", file=path)
    return arrays


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _read_member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, budget: int
) -> Array:
    with archive.open(member) as stream:
        shape, fortran, dtype = _read_header(stream, path, name)
        header = stream.tell()
        if dtype.hasobject:
            raise GraphoptError(
                f"array {name!r} holds Python objects, which need pickle",
                file=path,
                fix="store numbers, bools or strings of a fixed width",
            )
        size = math.prod(shape) * dtype.itemsize
        if size > member.file_size - header:
            raise GraphoptError(
                f"array {name!r} is cut off: {size:,} bytes wanted,"
                f" {max(0, member.file_size - header):,} there",
                file=path,
            )
        order: Any = "F" if fortran else "C"
        if size and member.compress_type == zipfile.ZIP_STORED:
            offset = _data_offset(path, member) + header
            if offset + size > path.stat().st_size:
                raise GraphoptError(f"array {name!r} reaches beyond the file", file=path)
            return np.memmap(path, dtype, "r", offset, shape, order)
        if size > budget:
            raise GraphoptError(
                f"array {name!r} unpacks to {size:,} bytes, over the limit of {budget:,}",
                file=path,
                fix="write it with numpy.savez, which does not compress and can be mapped",
            )
        return _unpack(stream, path, name, size).view(dtype).reshape(shape, order=order)


def _read_header(
    stream: IO[bytes], path: Path, name: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    except (ValueError, TypeError, SyntaxError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GraphoptError(f"array {name!r} has a broken header: {cause}", file=path) from None
    if any(size < 0 for size in shape):
        raise GraphoptError(f"array {name!r} has a negative size {shape}", file=path)
    return shape, fortran, dtype


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(_LOCAL_HEADER)
    name_size = int.from_bytes(local[26:28], "little")
    extra_size = int.from_bytes(local[28:30], "little")
    return member.header_offset + _LOCAL_HEADER + name_size + extra_size


def _unpack(stream: IO[bytes], path: Path, name: str, size: int) -> npt.NDArray[np.uint8]:
    content = np.empty(size, np.uint8)
    filled = 0
    while filled < size:
        piece = stream.read(min(1 << 20, size - filled))
        if not piece:
            raise GraphoptError(f"array {name!r} is cut off after {filled:,} bytes", file=path)
        content[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    return content


def readable(path: Path) -> None:
    """Raise the one line that says why `path` cannot be opened as a file of arrays."""
    if not path.exists():
        raise GraphoptError("there is no such file", file=path, fix="check --data")
    if not os.access(path, os.R_OK):
        raise GraphoptError("may not be read", file=path, fix="check its permissions")
