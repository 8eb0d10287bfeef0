"""What is wrong with an archive that cannot be read, said in one way."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import GraphoptError


def broken_archive(path: Path) -> GraphoptError:
    """Return the error of a zip archive that is not whole."""
    return GraphoptError(
        "is a broken or truncated zip archive",
        file=path,
        fix="copy it, or save the model, again",
    )
