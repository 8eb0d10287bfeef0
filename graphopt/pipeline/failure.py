"""A pass that failed: which one, after what, why, and how to see it fail again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.instrument import Step
from graphopt.pipeline.reproducer import replay_command, write_reproducer
from graphopt.pipeline.result import StepRecord


class PassFailed(GraphoptError):
    """A pass raised, or a check behind it said no.

    Exit code 2 where the pass refused, before it edited anything, what it was given; else 1.

    Args:
        problem: What happened, in one clause.
        step: The pass, and the model before it.
        ran_before: The passes that went well.
        reproducer: The folder that reproduces it, if one was written.
        note: What else there is to say.
    """

    def __init__(
        self,
        problem: str,
        step: Step,
        ran_before: Sequence[StepRecord],
        *,
        exit_code: int = 1,
        reproducer: Path | None = None,
        note: str | None = None,
    ) -> None:
        ran = [record.pass_text for record in ran_before]
        before = f"after {' | '.join(ran)}" if ran else "as the first pass"
        super().__init__(f"{step.text} failed, {before}: {problem}", fix=note)
        self.exit_code = exit_code
        self.problem = problem
        self.work = step.work
        self.pass_text = step.text
        self.rewrites = tuple(step.rewrites)
        self.applying = step.applying
        self.rewrites_before = sum(len(record.rewrites) for record in ran_before)
        self.ran_before = tuple(ran)
        self.before: ir.Model = step.before
        self.reproducer = reproducer


def pass_failed(
    error: Exception, step: Step, ran_before: Sequence[StepRecord], reproducers: Path | None
) -> PassFailed:
    """Name the pass that raised `error`, and write its reproducer where one is of use."""
    problem = _said(error)
    fix = error.fix if isinstance(error, GraphoptError) else None
    if (
        isinstance(error, GraphoptError)
        and not isinstance(error, CheckFailed)
        and not step.applying
    ):
        return PassFailed(problem, step, ran_before, exit_code=error.exit_code, note=fix)
    if reproducers is None:
        return PassFailed(problem, step, ran_before, note=fix)
    try:
        folder = write_reproducer(reproducers, step, error)
    # The failure that is being told must not be lost to a full disk.
    except (OSError, GraphoptError) as trouble:
        note = f"no reproducer could be written: {trouble}"
        return PassFailed(problem, step, ran_before, note=note)
    note = f"see it again with: {replay_command(folder, step.work)}"
    return PassFailed(problem, step, ran_before, reproducer=folder, note=note)


def _said(error: Exception) -> str:
    if isinstance(error, GraphoptError):
        return error.cause if error.file is None else f"{error.file}: {error.cause}"
    return f"{type(error).__name__}: {error}"
