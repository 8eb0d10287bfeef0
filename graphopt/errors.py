"""The errors that a user sees: one line each, naming the file, the cause and the fix."""

from __future__ import annotations

from os import PathLike, fspath


class GraphoptError(Exception):
    """Bad usage or bad input. The command line prints it as one line and exits with 2.

    Args:
        cause: What is wrong, in one clause.
        file: The file it is wrong in, if any.
        fix: What the user can do about it.
    """

    exit_code = 2

    def __init__(
        self, cause: str, *, file: str | PathLike[str] | None = None, fix: str | None = None
    ) -> None:
        self.cause = cause
        self.file = None if file is None else fspath(file)
        self.fix = fix
        super().__init__(_one_line(cause, self.file, fix))


class CheckFailed(GraphoptError):
    """A check said no: a mismatch, a missed budget, an absent provider. Exit code 1."""

    exit_code = 1


def _one_line(cause: str, file: str | None, fix: str | None) -> str:
    text = cause if file is None else f"{file}: {cause}"
    if fix is not None:
        text = f"{text}; {fix}"
    return " ".join(text.split())
