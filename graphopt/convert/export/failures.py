"""What a library raises where it runs what was exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from graphopt.convert.reasons import first_line
from graphopt.errors import CheckFailed


@contextlib.contextmanager
def run_by(library: str, places: tuple[str, ...] = ()) -> Iterator[None]:
    """Let whatever a library raises where it runs a model be a check that says no.

    Args:
        library: Its name.
        places: How lines begin that say where in the library it was, not what is wrong.

    Raises:
        CheckFailed: It raised an error.
    """
    try:
        yield
    except Exception as error:
        # Kernels, guards on sizes, XLA and interpreters have no type of errors in common.
        raise CheckFailed(f"{library} does not run it: {first_line(error, places)}") from error
