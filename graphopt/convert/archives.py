"""Zip archives, of whatever framework: opened, read, and told to be broken, in one way."""

from __future__ import annotations

import errno
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import GraphoptError

_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError)
"""What zipfile raises where bytes of an archive are wrong: a name that is no UTF-8 is a ValueError,
an offset beyond all files an OverflowError."""


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what is wrong with it is told alike, there and where entries are read.

    Nothing but reading the archive belongs in the block: what else fails there would be told as a
    fault of the archive.

    Raises:
        GraphoptError: It cannot be opened, is no whole zip archive, or packs in an unknown way.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _BROKEN as error:
        raise _broken(path) from error
    except RuntimeError as error:
        # An unknown method, a newer version of the format, or encryption.
        raise GraphoptError(f"cannot be unpacked: {error}", file=path) from error
    except OSError as error:
        # A seek to where no file reaches has that number; bzip2's own errors have none.
        if error.errno in {None, errno.EINVAL}:
            raise _broken(path) from error
        raise GraphoptError(f"cannot be unpacked: {error.strerror}", file=path) from error


def _broken(path: Path) -> GraphoptError:
    return GraphoptError(
        "is a broken or truncated zip archive",
        file=path,
        fix="copy it, or save the model, again",
    )
