"""What goes to stdout: the model where its name is `-`, and then nothing else."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from graphopt.errors import GraphoptError

STREAM = "-"


def check_streams(output: Path | None, json_target: str | None) -> None:
    """Raise GraphoptError where a model and its numbers would become one stream."""
    if str(output) == STREAM and json_target == STREAM:
        raise GraphoptError(
            "-o - and --json - would mix on stdout", fix="name a file for one of them"
        )


def beside(output: Path | None) -> contextlib.AbstractContextManager[object]:
    """Print on stderr what a command prints, where stdout holds the model."""
    if str(output) == STREAM:
        return contextlib.redirect_stdout(sys.stderr)
    return contextlib.nullcontext()
