"""Instrument: ONNX Runtime's outputs after each pass against those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Effect
from graphopt.pipeline.instrument import Instrument, Step
from graphopt.pipeline.interface import interface_change
from graphopt.runtime.budget import fault
from graphopt.runtime.compare import Comparison, OutputError
from graphopt.runtime.feeds import Array, Batch, Feeds
from graphopt.runtime.providers import ProviderAbsentError
from graphopt.runtime.session import Session
from graphopt.runtime.synthetic import synthetic_feeds

_ANYWAY = "rewrite without comparing: --no-verify"

_ENOUGH = 1 << 20
"""Bytes of inputs per run. Inner values of image networks take some hundred times as much."""

_FEWEST = 2
"""Samples per run, whatever their size: a pass that fixes the batch at 1 must not go unnoticed."""


class Compare(Instrument):
    """Fails a pass that changes what it must not.

    That is: an exact pass that changes an output beyond what reassociated sums explain, any pass
    that makes a NaN or an infinity where there was none, and any pass that changes names, types or
    shapes of inputs and outputs without declaring it. Models run on the context's feeds, else on
    inputs made from its seed. Outputs are kept from pass to pass, so that each model runs once.

    Args:
        samples: Compare on that many samples of the feeds, the first ones.
        batch: Samples per run; fewer where samples are large.
        max_bytes: Keep outputs up to this size; above, the session is kept, and runs again.
        min_sqnr: Also fail a lossy pass one of whose outputs has a lower signal to quantization
            noise ratio, in dB, against the model before the pass.
    """

    name: ClassVar[str] = "compare"

    def __init__(
        self,
        *,
        samples: int = 256,
        batch: int = 32,
        max_bytes: int = 256 << 20,
        min_sqnr: float | None = None,
    ) -> None:
        self._samples = samples
        self._batch = batch
        self._max_bytes = max_bytes
        self._min_sqnr = min_sqnr
        self._feeds: Feeds | None = None
        self._former: tuple[ir.Model | None, Feeds | None] = (None, None)
        self._known: list[tuple[ir.Model, Session]] = []

    def start(self, model: ir.Model, context: Context) -> None:
        """Run the model before any pass.

        Raises:
            CheckFailed: It does not run, so nothing can be said about the passes.
            GraphoptError: The feeds do not fit it.
        """
        self._known.clear()
        self._former = (None, None)
        try:
            self._feeds = self._feeds_for(model, context)
            session = Session(model, context.providers, title="it")
            kept = _Kept(self._max_bytes)
            for batch in self._batches():
                kept.add(session.run(batch))
        except ProviderAbsentError:
            # That says nothing about the model.
            raise
        except CheckFailed as error:
            raise CheckFailed(
                f"the model does not run on ONNX Runtime before any pass: {error.cause}",
                fix=_ANYWAY,
            ) from error
        self._remember(model, session, kept, context)

    def after(self, step: Step) -> None:
        """Run the model that the pass left, and compare.

        Raises:
            CheckFailed: It does not run, or changed what it must not.
        """
        if not step.changed:
            return
        former, feeds = self._former
        if step.before is former:
            # The pass that changed the interface was rolled back.
            self._feeds = feeds
        change = interface_change(step.before, step.after)
        if change is None:
            self._compare(step)
        elif step.work.keeps_interface:
            raise CheckFailed(f"it changed the interface: {change}")
        else:
            feeds = self._feeds
            self.start(step.after, step.context_after)
            self._former = (step.before, feeds)

    def _compare(self, step: Step) -> None:
        reference = self._session(step.before, step.context)
        candidate = Session(step.after, step.context.providers, title="the result")
        exact = step.work.effect is Effect.EXACT
        # What a lossy pass does need not be told apart from rounding.
        comparison = Comparison(reference, candidate, measure_noise=exact)
        kept = _Kept(self._max_bytes)
        for index, batch in enumerate(self._batches()):
            if isinstance(reference, _Recorded):
                reference.expect(index, batch)
            kept.add(comparison.run(batch)[1])
        step.errors = comparison.errors()
        self._judge(step)
        if isinstance(reference, _Recorded):
            reference.let_go()
        self._remember(step.after, candidate, kept, step.context)

    def _judge(self, step: Step) -> None:
        wrong = [error for error in step.errors if self._problem(error, step.work.effect)]
        if not wrong:
            return
        random = self._random_outputs(step) if all(error.finite for error in wrong) else set()
        for error in wrong:
            if error.name not in random:
                raise CheckFailed(str(self._problem(error, step.work.effect)))
        step.measures["random outputs"] = len(random)

    def _problem(self, error: OutputError, effect: Effect) -> str | None:
        exact = effect is Effect.EXACT
        found = fault(error, exact=exact, min_sqnr=self._min_sqnr)
        return f"it is exact, and {found}" if found and exact and error.finite else found

    def _random_outputs(self, step: Step) -> set[str]:
        """Run the model before the pass twice: what differs then is not the pass's doing.

        One session does both: ONNX Runtime seeds every session alike, and draws on within it.
        """
        session = self._start(step.before, step.context)
        comparison = Comparison(session, session, measure_noise=False)
        for batch in self._batches():
            comparison.run(batch)
        return {error.name for error in comparison.errors() if not error.equal}

    def _feeds_for(self, model: ir.Model, context: Context) -> Feeds:
        if context.feeds is not None:
            return context.feeds.for_model(model).take(self._samples)
        try:
            return synthetic_feeds(model, seed=context.seed)
        except CheckFailed:
            raise
        except GraphoptError as error:
            cause = f"no inputs can be made for the model: {error.cause}"
            raise GraphoptError(cause, fix=f"give it data: --data, or {_ANYWAY}") from error

    def _batches(self) -> Iterator[Batch]:
        assert self._feeds is not None, "the manager calls start first"
        size = sum(array.nbytes for array in next(self._feeds.batches(1)).values())
        fit = max(_FEWEST, _ENOUGH // max(1, size))
        return self._feeds.batches(min(self._batch, fit))

    def _session(self, model: ir.Model, context: Context) -> Session:
        for known, session in self._known:
            if known is model:
                return session
        return self._start(model, context)

    def _start(self, model: ir.Model, context: Context) -> Session:
        return Session(model, context.providers, title="the model before the pass")

    def _remember(self, model: ir.Model, session: Session, kept: _Kept, context: Context) -> None:
        if kept.outputs is not None:
            session = _Recorded(session, lambda: self._start(model, context), kept.outputs)
        # Two: where this pass is rolled back, the model before it comes again.
        self._known = [*self._known[-1:], (model, session)]


class _Recorded(Session):
    """Outputs that a model gave, to be given again; asked anything else, the model runs.

    Args:
        session: What gave the outputs; it is let go, and its memory with it.
        start: Makes such a session again.
        outputs: Batch by batch.
    """

    def __init__(
        self, session: Session, start: Callable[[], Session], outputs: Sequence[Batch]
    ) -> None:
        self.title = session.title
        self.input_names = session.input_names
        self.output_names = session.output_names
        self._start_again = start
        self._again: Session | None = None
        self._outputs = outputs
        self._asked: tuple[int, Batch] = (-1, {})

    def expect(self, index: int, batch: Batch) -> None:
        """Say that this very batch, the one of this index, is asked for next."""
        self._asked = (index, batch)

    def run(self, batch: Mapping[str, Array]) -> Batch:
        index, asked = self._asked
        return self._outputs[index] if batch is asked else self._live().run(batch)

    def unoptimized(self) -> Session:
        return self._live().unoptimized()

    def let_go(self) -> None:
        """Free what asking anything else took."""
        self._again = None

    def _live(self) -> Session:
        if self._again is None:
            self._again = self._start_again()
        return self._again


class _Kept:
    """Outputs, batch by batch, until they are more than fits: then none of them.

    Args:
        most: Bytes of all of them.
    """

    def __init__(self, most: int) -> None:
        self.outputs: list[Batch] | None = []
        self._left = most

    def add(self, outputs: Batch) -> None:
        """Keep the outputs of the next batch, if all up to it fit."""
        self._left -= sum(getattr(array, "nbytes", 0) for array in outputs.values())
        if self._left < 0:
            self.outputs = None
        elif self.outputs is not None:
            self.outputs.append(outputs)
