"""A file that stays readable: opened once, mapped once, copied by the kernel."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

_RESIDENT = 32 << 20
"""Bytes of a file that may stay mapped in: what was handed out before is given back, and faults
in again from the page cache when it is read again."""

_COPY = 64 << 20
_CHUNK = 1 << 20
_NO_KERNEL_COPY = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, errno.EBADF}
)


class MappedFile:
    """One file, opened once and mapped once, whatever happens to its name later.

    The mapping is read-only and follows the inode: a file that is renamed over or removed stays
    readable. A file that another process truncates in place does not; no mapping survives that.

    Args:
        fd: An open regular file; it is owned by this object from now on.
        path: What it was opened as, for messages and references.
    """

    def __init__(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.path = path
        self.size = status.st_size
        self.identity = _identity(status)
        self._map: mmap.mmap | None = None
        self._read = 0
        weakref.finalize(self, os.close, fd)

    @property
    def map(self) -> mmap.mmap:
        """The mapping of the whole file, which must not be empty."""
        if self._map is None:
            self._map = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
        return self._map

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path still leads to this very file, unchanged."""
        try:
            return _identity(Path(path).stat()) == self.identity
        except OSError:
            return False

    def view(self, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """Return bytes of the file as a read-only array that owns no memory."""
        if length == 0:
            return np.empty(0, np.uint8)
        if self._read + length > _RESIDENT:
            self.release()
        self._read += length
        return np.frombuffer(self.map, np.uint8, length, offset)

    def release(self) -> None:
        """Give the memory of pages that were read back; arrays on them stay valid."""
        self._read = 0
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def copy(self, offset: int, length: int, target: int) -> None:
        """Append bytes of the file to an open file, in the kernel where it can."""
        done = 0
        while done < length:
            count = min(_COPY, length - done)
            moved = _copy_some(self.fd, offset + done, count, target)
            if moved == 0:
                raise OSError(f"{self.path} was truncated while it was read")
            done += moved


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copy_some(source: int, offset: int, count: int, target: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, offset_src=offset)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    data = os.pread(source, min(count, _CHUNK), offset)
    write_all(target, data)
    return len(data)


def write_all(target: int, data: bytes | memoryview) -> None:
    """Write bytes to an open file, all of them."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(target, view[:_COPY]) :]
