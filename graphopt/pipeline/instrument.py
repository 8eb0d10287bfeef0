"""What watches a run: instruments see the model before and after each pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context, Pass
from graphopt.pipeline.result import Note
from graphopt.runtime.compare import OutputError

if TYPE_CHECKING:
    from graphopt.model.facts import Facts


@dataclass
class Step:
    """A pass while it runs. Instruments read it, and write down what they find.

    Args:
        index: Which pass of the pipeline, from 0.
        work: The pass.
        text: The pass as pipeline text.
        context: The run's context.
        before: The model before the pass; not to be edited.
        after: The model after it; `after is before` where the pass applied nothing or was rolled
            back, so that an instrument need not look twice.
        rewrites: What was applied.
        declined: Where the pass declined.
        findings: What else the pass found out.
        facts_before: Written by the statistics instrument.
        facts_after: Written by the statistics instrument.
        errors: Written by the compare instrument.
        measures: Written by guards.
        rolled_back: Why the pass was undone, or None.
        applying: The rewrite that is being applied; what fails then is no refusal.
    """

    index: int
    work: Pass
    text: str
    context: Context
    before: ir.Model
    after: ir.Model
    rewrites: list[Note] = field(default_factory=list)
    declined: list[Note] = field(default_factory=list)
    findings: list[Note] = field(default_factory=list)
    facts_before: Facts | None = None
    facts_after: Facts | None = None
    errors: tuple[OutputError, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)
    rolled_back: str | None = None
    applying: Note | None = None

    @property
    def changed(self) -> bool:
        """Whether the model after the pass is another one than before."""
        return self.after is not self.before

    @property
    def context_after(self) -> Context:
        """The context for the model after the pass: its feeds fit inputs of another float type.

        They fit the model before the pass, too.
        """
        given = self.context.feeds
        if given is None or self.work.keeps_interface or not self.changed:
            return self.context
        feeds = given.following(self.before, self.after)
        return self.context if feeds is given else replace(self.context, feeds=feeds)


class RollBack(Exception):
    """Raised by `Instrument.after` to undo the pass and go on with the next one.

    Args:
        why: The reason, in one clause, with the numbers that decided it.
    """


class Instrument:
    """Watches a run. Every method may be left as it is.

    What an instrument raises fails the run: `CheckFailed` where a check said no, `RollBack` to
    undo one pass only.
    """

    name: ClassVar[str] = "instrument"

    def start(self, model: ir.Model, context: Context) -> None:
        """See the model before any pass."""

    def before(self, step: Step) -> None:
        """See a pass about to run; `step.after` is still `step.before`."""

    def after(self, step: Step) -> None:
        """See a pass that ran, or one that an instrument ahead of this one rolled back."""
