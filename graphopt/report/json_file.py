"""The numbers of a command as a JSON file."""

from __future__ import annotations

import json
import sys
from os import PathLike, fspath
from pathlib import Path

from graphopt.model.atomic import mode_of, one_line_errors, staged
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
    write_text(text, target)


def write_text(text: str, target: str | PathLike[str]) -> None:
    """Write a text file beside its final name, and rename it when it is whole; or to stdout: `-`.

    Raises:
        GraphoptError: The file cannot be written; what stood there before still does.
    """
    if fspath(target) == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    # A lone surrogate, which a JSON name may hold, has no UTF-8.
    content = text.encode("utf-8", "backslashreplace")
    with one_line_errors(path), staged(path, mode_of(path)) as file:
        file.write(content)
        file.publish(path)
