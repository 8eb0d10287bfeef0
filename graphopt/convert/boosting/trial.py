"""Whether a library survives reading a file: their readers in C++ crash on broken ones."""

from __future__ import annotations

import subprocess
import sys

from graphopt.errors import GraphoptError

_SECONDS = 600


def try_reading(source: str, title: str, code: str) -> None:
    """Read a file in a process of its own.

    Args:
        source: The file.
        title: What a message calls the library.
        code: Reads the file `sys.argv[1]`. What it raises is left to be raised again.

    Raises:
        GraphoptError: The process crashed, or did not end.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {code}", source],
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        cause = f"keeps {title} reading for more than {_SECONDS} seconds"
    else:
        # 1 is a Python exception; a signal is negative, or large on Windows.
        if done.returncode in (0, 1):
            return
        cause = f"is broken: {title} crashes while it reads it"
    raise GraphoptError(cause, file=source, fix="save it again with save_model")
