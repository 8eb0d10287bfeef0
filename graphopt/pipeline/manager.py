"""Run a pipeline: apply what passes decide, keep the model whole, and say who broke it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.order import BrokenGraphError, restore_order
from graphopt.pipeline.contract import Context, Declined, Finding, Pass, Rewrite
from graphopt.pipeline.failure import PassFailed, pass_failed
from graphopt.pipeline.instrument import Instrument, RollBack, Step
from graphopt.pipeline.result import Note, RunResult, StepRecord
from graphopt.pipeline.snapshot import snapshot, structure
from graphopt.pipeline.stopwatch import Stopwatch
from graphopt.pipeline.syntax import label, parse

__all__ = ["PassFailed", "run"]


def run(
    model: ir.Model,
    passes: Sequence[Pass] | str,
    context: Context | None = None,
    instruments: Sequence[Instrument] = (),
    limit: int | None = None,
    *,
    reproducers: Path | None = None,
) -> RunResult:
    """Run passes over a model, watched by instruments.

    Every pass works on a copy that shares its tensors, and the copy takes the model's place when
    the pass and all instruments are through with it. So `model` itself stays as it came, whatever
    happens; only nodes that came out of order are put in order.

    Args:
        model: What to rewrite.
        passes: In the order in which they run; or a pipeline as text.
        context: What the run has; None: no data, CPU, seed 0.
        instruments: In the order in which they look.
        limit: Apply this many rewrites over the whole run, and stop.
        reproducers: Where a folder is written that reproduces the failure of a pass; None: nowhere.

    Raises:
        PassFailed: A pass, or an instrument behind it, failed. It names the pass with its
            arguments and what ran before, and holds the model as it was before that pass.
        GraphoptError: The model or an instrument is not fit to start with.
    """
    if limit is not None and limit < 0:
        raise GraphoptError(f"the limit on rewrites is negative: {limit}")
    _make_whole(model)
    return _Run(
        model,
        parse(passes) if isinstance(passes, str) else passes,
        context=context or Context(),
        instruments=instruments,
        limit=limit,
        reproducers=reproducers,
    ).result()


def _make_whole(model: ir.Model) -> None:
    try:
        restore_order(model)
    except BrokenGraphError as error:
        raise GraphoptError(f"the model is broken before any pass: {error}") from error


class _Run:
    """The state of one run."""

    def __init__(
        self,
        source: ir.Model,
        passes: Sequence[Pass],
        *,
        context: Context,
        instruments: Sequence[Instrument],
        limit: int | None,
        reproducers: Path | None,
    ) -> None:
        self._source = source
        self._model = source
        self._passes = passes
        self._context = context
        self._instruments = instruments
        self._left = limit
        self._reproducers = reproducers
        self._records: list[StepRecord] = []
        self._watch = Stopwatch("run")

    def result(self) -> RunResult:
        for instrument in self._instruments:
            with self._watch.part(instrument.name):
                instrument.start(self._model, self._context)
        for index, work in enumerate(self._passes):
            if self._left == 0:
                break
            self._context.progress("passes", index, len(self._passes))
            self._step(index, work)
        self._context.progress("passes", len(self._passes), len(self._passes))
        # The caller may edit what it gets without editing what it gave.
        model = snapshot(self._source) if self._model is self._source else self._model
        return RunResult(
            source=self._source,
            model=model,
            steps=tuple(self._records),
            timing=self._watch.stop(),
            seed=self._context.seed,
            limited=self._left == 0,
        )

    def _step(self, index: int, work: Pass) -> None:
        step = Step(index, work, label(work), self._context, self._model, self._model)
        watch = self._watch.child(step.text)
        try:
            self._watched(step, watch)
        except Exception as error:
            raise pass_failed(error, step, self._records, self._reproducers) from error
        self._context = step.context_after
        self._model = step.after
        self._records.append(_record(step, watch))

    def _watched(self, step: Step, watch: Stopwatch) -> None:
        for instrument in self._instruments:
            with watch.part(instrument.name):
                instrument.before(step)
        self._apply(step, watch)
        for instrument in self._instruments:
            with watch.part(instrument.name):
                _look_after(instrument, step)

    def _apply(self, step: Step, watch: Stopwatch) -> None:
        with watch.part("snapshot"):
            copy = snapshot(step.before)
        items = step.work.rewrites(copy, step.context)
        try:
            self._decide_and_apply(items, step, watch)
        finally:
            # A generator that is left half way would run its own clean-up at any later time.
            if hasattr(items, "close"):
                items.close()
        with watch.part("order"):
            if step.rewrites:
                restore_order(copy)
                step.after = copy
            elif structure(copy) != structure(step.before):
                raise TypeError("it edited the model without yielding a rewrite")

    def _decide_and_apply(
        self, items: Iterator[Rewrite | Declined | Finding], step: Step, watch: Stopwatch
    ) -> None:
        iterator = iter(items)
        while self._left != 0:
            with watch.part("decide"):
                item = next(iterator, None)
            if item is None:
                return
            if isinstance(item, Declined | Finding):
                notes = step.declined if isinstance(item, Declined) else step.findings
                notes.append(Note(item.at, item.why, dict(item.details)))
                continue
            if not isinstance(item, Rewrite):
                raise TypeError(f"it yielded {item!r}, which is no Rewrite, Declined or Finding")
            step.applying = Note(item.at, item.why)
            with watch.part("apply"):
                item.apply()
            step.applying = None
            step.rewrites.append(Note(item.at, item.why, dict(item.details)))
            if self._left is not None:
                self._left -= 1


def _look_after(instrument: Instrument, step: Step) -> None:
    try:
        instrument.after(step)
    except RollBack as wish:
        step.after = step.before
        step.rolled_back = str(wish)


def _record(step: Step, watch: Stopwatch) -> StepRecord:
    return StepRecord(
        pass_text=step.text,
        name=step.work.name,
        effect=step.work.effect.value,
        rewrites=tuple(step.rewrites),
        declined=tuple(step.declined),
        findings=tuple(step.findings),
        timing=watch.stop(),
        before=step.facts_before,
        after=step.facts_after,
        errors=step.errors,
        measures=step.measures,
        rolled_back=step.rolled_back,
    )
