"""What goes to stdout: the model where its name is `-`, and then nothing else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import CheckFailed

STREAM = "-"


@contextlib.contextmanager
def errors_of(model: Path) -> Iterator[None]:
    """Name the model's file in what a check says against the model itself."""
    try:
        yield
    except CheckFailed as error:
        if error.file is not None or type(error) is not CheckFailed:
            raise
        raise CheckFailed(error.cause, file=model, fix=error.fix) from error


def beside(output: Path | None) -> contextlib.AbstractContextManager[object]:
    """Print on stderr what a command prints, where stdout holds the model."""
    if str(output) == STREAM:
        return contextlib.redirect_stdout(sys.stderr)
    return contextlib.nullcontext()
