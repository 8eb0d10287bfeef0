"""The type of options that name a file to write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from graphopt.errors import GraphoptError

_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


class OutputFile(click.ParamType):
    """A path that does not end as a folder's does: `pathlib` would forget the separator."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path.

        Raises:
            GraphoptError: It names a folder.
        """
        del param, ctx
        text = os.fspath(value)
        if not text or text.endswith(_SEPARATORS) or Path(text).name in {"", ".."}:
            raise GraphoptError(
                "names a folder, not a file" if text else "-o names no file",
                file=text or None,
                fix=f"name a file, as in {Path(text) / 'model.onnx'}",
            )
        return Path(text)
