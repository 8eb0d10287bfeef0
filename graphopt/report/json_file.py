"""The numbers of a command as a JSON file."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.pipeline.result import to_json


def write_json(record: object, target: str) -> None:
    """Write what a command found out, whole or not at all.

    Args:
        record: Dataclasses, mappings, sequences and numbers; `inf` and `nan` become strings.
        target: A file, or `-` for stdout.

    Raises:
        GraphoptError: The file cannot be written.
    """
    text = json.dumps(to_json(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_text(text, Path(target))


def write_text(text: str, path: Path) -> None:
    """Write a text file beside its final name, and rename it when it is whole.

    Raises:
        GraphoptError: The file cannot be written; what stood there before still does.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path, error) from error
    # A lone surrogate, which a JSON name may hold, has no UTF-8.
    content = text.encode("utf-8", "backslashreplace")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> GraphoptError:
    return GraphoptError(
        f"cannot be written: {error.strerror}", file=path, fix="name a file in a folder you may use"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
