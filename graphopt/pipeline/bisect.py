"""Find the first rewrite of a pipeline that breaks a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Pass
from graphopt.pipeline.failure import PassFailed
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.manager import run
from graphopt.pipeline.result import Note


@dataclass(frozen=True)
class Culprit:
    """The first rewrite with which a run fails.

    Args:
        number: Which rewrite of the whole run, from 1: `--limit` with one less still goes well. 0
            where the pass fails before it makes any.
        pass_text: The pass that made it.
        note: Where and why it was made; None where the pass fails outside of its rewrites.
        problem: What the check, or the pass, said.
        before: The model without it.
        after: The model with it; None where making it raises.
        runs: How often the pass was run to find it.
    """

    number: int
    pass_text: str
    note: Note | None
    problem: str
    before: ir.Model
    after: ir.Model | None
    runs: int


def bisect(
    model: ir.Model,
    passes: Sequence[Pass],
    instruments: Callable[[], Sequence[Instrument]],
    context: Context | None = None,
) -> Culprit | None:
    """Find the first rewrite that breaks a check, or None where none does.

    One run of the pipeline finds the pass; a binary search over that pass's rewrites, on the model
    before it, finds the rewrite. Where checks fail and pass again along the way, it finds one
    rewrite at which they turn.

    Args:
        model: What the pipeline begins with.
        passes: The pipeline.
        instruments: Makes the checks, once for every run.
        context: What the runs have.

    Raises:
        GraphoptError: The pipeline cannot begin, or a pass refuses the model.
    """
    context = context or Context()
    try:
        run(model, passes, context, instruments())
    except PassFailed as failure:
        if failure.exit_code == GraphoptError.exit_code:
            raise
        return _Search(failure, instruments, context).culprit()
    return None


class _Search:
    """The search inside the pass that failed."""

    def __init__(
        self,
        failure: PassFailed,
        instruments: Callable[[], Sequence[Instrument]],
        context: Context,
    ) -> None:
        self._failure = failure
        self._instruments = instruments
        self._context = context
        self._runs = 1
        last = () if failure.applying is None else (failure.applying,)
        self._notes = (*failure.rewrites, *last)

    def culprit(self) -> Culprit:
        # With `good` rewrites the pass passes, with `bad` it fails. Without any it changes nothing;
        # one more than it applied means that it fails when it is asked for the next.
        good, bad = 0, len(self._failure.rewrites) + 1
        problem = self._failure.problem
        if self._failure.rewrites and (found := self._problem(bad - 1)) is not None:
            bad, problem = bad - 1, found
        while bad - good > 1:
            middle = (good + bad) // 2
            found = self._problem(middle)
            if found is None:
                good = middle
            else:
                bad, problem = middle, found
        return self._at(bad, problem)

    def _at(self, number: int, problem: str) -> Culprit:
        failure = self._failure
        inside = number <= len(self._notes)
        return Culprit(
            number=failure.rewrites_before + number if inside else 0,
            pass_text=failure.pass_text,
            note=self._notes[number - 1] if inside else None,
            problem=problem,
            before=self._model(number - 1) or failure.before,
            after=self._model(number) if inside else None,
            runs=self._runs,
        )

    def _problem(self, limit: int) -> str | None:
        self._runs += 1
        try:
            run(
                self._failure.before,
                [self._failure.work],
                self._context,
                self._instruments(),
                limit=limit,
            )
        except PassFailed as failure:
            return failure.problem
        return None

    def _model(self, limit: int) -> ir.Model | None:
        """Apply that many rewrites without checks; None where that raises."""
        try:
            return run(self._failure.before, [self._failure.work], self._context, limit=limit).model
        except PassFailed:
            return None
