"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.model.mapped import write_all

_WRITEBACK = 64 << 20
_NAME_MAX = 200
_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_FIXES = {
    errno.ENOSPC: "free space on that disk, or choose another",
    errno.EDQUOT: "free space within your quota",
    errno.EFBIG: "raise the limit on the size of files, or choose another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "choose a folder that exists",
}


class StagedFile(io.FileIO):
    """A file that is written in the folder of its final name.

    Where the file system can, it has no name until it is whole: nothing is left of it when the
    process is killed. Elsewhere it has a temporary one.

    Args:
        final: The name that it is to have.
        mode: Its permissions; None: those of a new file.
    """

    def __init__(self, final: Path, mode: int | None) -> None:
        self.path = final.parent / f".{final.name[:_NAME_MAX]}.{secrets.token_hex(4)}.tmp"
        fd = _open_unnamed(final.parent)
        self._is_named = fd is None
        if fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o666)
        super().__init__(fd, "wb")
        self._flushed = 0
        if mode is not None:
            os.fchmod(fd, mode)

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override] # whole, not some
        """Write all of the data."""
        write_all(self.fileno(), data)
        return memoryview(data).nbytes

    def start_writeback(self) -> None:
        """Let the disk start on what was written, so that the flush at the end is short."""
        done = self.tell()
        if done - self._flushed >= _WRITEBACK and hasattr(os, "posix_fadvise"):
            span = done - self._flushed
            os.posix_fadvise(self.fileno(), self._flushed, span, os.POSIX_FADV_DONTNEED)
            self._flushed = done

    def publish(self, final: Path) -> None:
        """Flush to the disk and take the final name; what had it before is gone in one step."""
        os.fsync(self.fileno())
        if not self._is_named:
            _give_name(self.fileno(), self.path)
        self.close()
        self.path.replace(final)
        sync_folder(final.parent)


def _open_unnamed(folder: Path) -> int | None:
    """Open a new file without a name; None where there is no such thing."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise
    if Path(_opened(fd)).exists():
        return fd
    os.close(fd)
    return None


def _give_name(fd: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Only with the descriptor of a folder does Python follow the link to the open file.
        os.link(_opened(fd), path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _opened(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def check_target(final: Path) -> None:
    """Raise GraphoptError where a folder, a device or a pipe has a name, or there is no folder.

    A file that took its name would replace a device, where root writes it.
    """
    if final.is_dir():
        raise GraphoptError("is a directory", file=final, fix="name a file in it")
    if final.exists() and not final.is_file():
        raise GraphoptError("is no regular file", file=final, fix="name a file, or - for stdout")
    if not final.absolute().parent.is_dir():
        raise GraphoptError("its folder does not exist", file=final, fix="create the folder first")


@contextlib.contextmanager
def staged(final: Path, mode: int | None) -> Iterator[StagedFile]:
    """Open a file that is removed unless it was published.

    Raises:
        GraphoptError: No file can have the final name, see `check_target`.
    """
    check_target(final)
    file = StagedFile(final, mode)
    try:
        yield file
    finally:
        file.close()
        file.path.unlink(missing_ok=True)


def second_name(path: Path, other: Path) -> None:
    """Let a file have another name as well; what had that name before is gone in one step."""
    temporary = other.with_name(f".{other.name[:_NAME_MAX]}.{secrets.token_hex(4)}.tmp")
    try:
        os.link(path, temporary)
        temporary.replace(other)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(other.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder, where the file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def mode_of(path: Path) -> int | None:
    """Return the permissions of a regular file; None where there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = _FIXES.get(error.errno or 0, "check the disk")
        raise GraphoptError(f"cannot be written: {reason}", file=path, fix=fix) from error
