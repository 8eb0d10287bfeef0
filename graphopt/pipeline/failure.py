"""A pass that failed: which one, after what, why, and how to see it fail again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.instrument import Step
from graphopt.pipeline.reproducer import replay_command, write_reproducer


class PassFailed(GraphoptError):  # noqa: N818 - the name that the log and the docs use
    """A pass raised, or a check behind it said no.

    Exit code 2 where the pass refused what it was given, else 1.

    Args:
        cause: What happened, in one clause.
        step: The pass, and the model before it.
        ran_before: The passes that went well, as text.
        reproducer: The folder that reproduces it, if one was written.
        note: What else there is to say.
    """

    def __init__(
        self,
        cause: str,
        step: Step,
        ran_before: Sequence[str],
        *,
        exit_code: int = 1,
        reproducer: Path | None = None,
        note: str | None = None,
    ) -> None:
        super().__init__(cause, fix=note)
        self.exit_code = exit_code
        self.pass_text = step.text
        self.ran_before = tuple(ran_before)
        self.before: ir.Model = step.before
        self.reproducer = reproducer


def pass_failed(
    error: Exception, step: Step, ran_before: Sequence[str], reproducers: Path | None
) -> PassFailed:
    """Name the pass that raised `error`, and write its reproducer where one is of use."""
    refused = isinstance(error, GraphoptError) and not isinstance(error, CheckFailed)
    before = f"after {' | '.join(ran_before)}" if ran_before else "as the first pass"
    cause = f"{step.text} failed, {before}: {_said(error)}"
    if refused or reproducers is None:
        fix = error.fix if isinstance(error, GraphoptError) else None
        code = error.exit_code if isinstance(error, GraphoptError) else 1
        return PassFailed(cause, step, ran_before, exit_code=code, note=fix)
    try:
        folder = write_reproducer(reproducers, step, error)
    # The failure that is being told must not be lost to a full disk.
    except (OSError, GraphoptError) as problem:
        note = f"no reproducer could be written: {problem}"
        return PassFailed(cause, step, ran_before, note=note)
    note = f"see it again with: {replay_command(folder, step.work)}"
    return PassFailed(cause, step, ran_before, reproducer=folder, note=note)


def _said(error: Exception) -> str:
    if isinstance(error, GraphoptError):
        return error.cause if error.file is None else f"{error.file}: {error.cause}"
    return f"{type(error).__name__}: {error}"
