"""What options that name a file to write make of their text."""

from __future__ import annotations

import os
from pathlib import Path

import click

from graphopt.errors import GraphoptError

_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


def output_file(context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """Return the path of an option, None where it is not given; a click callback.

    Raises:
        GraphoptError: It ends as a folder's does; `pathlib` would forget the separator.
    """
    del context, option
    if text is None:
        return None
    if not text or text.endswith(_SEPARATORS) or Path(text).name in {"", ".."}:
        raise GraphoptError(
            "names a folder, not a file" if text else "-o names no file",
            file=text or None,
            fix=f"name a file, as in {Path(text) / 'model.onnx'}",
        )
    return Path(text)
