"""An edit weighed on the provider that the model is meant for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Detail
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.layout import inputs_of
from graphopt.runtime.paired import Paired, Rounds, Speed, compared, latency_only, timed
from graphopt.runtime.providers import parse_providers
from graphopt.runtime.session import Session, Spinning
from graphopt.runtime.synthetic import synthetic_feeds
from graphopt.runtime.timing_batches import timing_batches
from passes.merge.gain.costs import Costs, Outlook, costs, outlook

SIZES = (1, 32)

_EQUAL = 1.01
"""The ratio up to which a difference in doubt counts as none, and from which a gain counts."""

_NEAR = 1.05
"""Below which the ratio of latency or of work must lie with a confidence of 95%, in doubt too."""


@dataclass(frozen=True)
class Verdict:
    """Whether an edit pays.

    Args:
        gains: Whether it makes the model faster in some setting, and slower in none.
        why: In one clause, with the numbers.
        details: What a report shows: each cost before and after, each ratio with its bounds.
    """

    gains: bool
    why: str
    details: Mapping[str, Detail] = field(default_factory=dict)


@dataclass(frozen=True)
class _Held:
    """One side of the scales."""

    model: ir.Model
    costs: Costs
    title: str
    providers: Sequence[str]
    _sessions: dict[Spinning, Session] = field(default_factory=dict)

    def session(self, spinning: Spinning) -> Session:
        if spinning not in self._sessions:
            self._sessions[spinning] = Session(
                self.model, self.providers, title=self.title, spinning=spinning
            )
        return self._sessions[spinning]


class Scales:
    """Weighs edits of one model.

    Costs are counted first. Where they leave doubt, both models run on the provider in question,
    on batches of 1 and of 32 samples (or what the model is fixed to) and on half the length where
    that may vary, in interleaved rounds: see `graphopt.runtime.paired`. Threads do not spin. What
    gains then is also timed with threads that spin while a model runs, as they do unless told
    otherwise: it may not be slower beyond doubt.

    Args:
        context: Its feeds are what models are timed on; without them, made-up ones.
        model: Any state of the model: all have its inputs.
        rounds: Times two runs; None: as fits the provider.
        sizes: The batch sizes, where the model leaves the choice.
    """

    def __init__(
        self,
        context: Context,
        model: ir.Model,
        *,
        rounds: Rounds | None = None,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        self._context = context
        self._inputs = inputs_of(model)
        self._start = model
        self._on_cpu = parse_providers(context.providers)[0].is_cpu
        self._rounds = rounds or (timed if self._on_cpu else latency_only)
        self._sizes = sizes
        self._held: tuple[_Held, ...] = ()
        self._timing: dict[str, Batch] | None = None

    def weigh(self, before: ir.Model, after: ir.Model) -> Verdict:
        """Say whether an edit pays.

        Args:
            before: The model, or the edited copy that was weighed last; both are kept until the
                next call, so pass the same objects to weigh edit after edit.
            after: The edited copy.
        """
        try:
            reference = self._kept(before)
            candidate = self._hold(after, "the fused model")
            self._held = (reference, candidate)
            details: dict[str, Detail] = dict(candidate.costs.described(reference.costs))
            prospect = outlook(reference.costs, candidate.costs)
            if prospect is not Outlook.DOUBTFUL:
                why = _counted(prospect, reference.costs, candidate.costs)
                return Verdict(prospect is Outlook.OBVIOUS, why, details)
            return self._timed(reference, candidate, details)
        except (CheckFailed, GraphoptError) as error:
            return Verdict(False, f"it cannot be timed: {error}")

    def _timed(self, reference: _Held, candidate: _Held, details: dict[str, Detail]) -> Verdict:
        speed = self._speed(reference, candidate, self._rounds, spinning=False)
        verdict = _judged(speed, details | _ratios(speed))
        if not verdict.gains or not self._on_cpu:
            return verdict
        speed = self._speed(reference, candidate, self._latencies, spinning="during runs")
        slower = {name: item for name, item in speed.settings.items() if _is_clearly_slower(item)}
        details = {**verdict.details, **_ratios(speed, " with spinning threads")}
        if slower:
            return Verdict(False, f"slower with spinning threads on {Speed(slower)}", details)
        return Verdict(True, verdict.why, details)

    def _speed(
        self, reference: _Held, candidate: _Held, rounds: Rounds, *, spinning: Spinning
    ) -> Speed:
        old, new = reference.session(spinning), candidate.session(spinning)
        batches = self._batches(old)
        return compared(
            [partial(new.run, batch) for batch in batches.values()],
            [partial(old.run, batch) for batch in batches.values()],
            list(batches),
            rounds=rounds,
        )

    def _latencies(
        self, first: Callable[[], object], second: Callable[[], object], rounds: int
    ) -> Paired:
        """Without the work: threads that spin work without achieving anything."""
        return Paired(self._rounds(first, second, rounds).latency)

    def _kept(self, model: ir.Model) -> _Held:
        # Weights of what is weighed no more go before the next ones come.
        self._held = tuple(held for held in self._held if held.model is model)
        return self._held[0] if self._held else self._hold(model, "the model before fusion")

    def _hold(self, model: ir.Model, title: str) -> _Held:
        return _Held(model, costs(model, self._dims), title, self._context.providers)

    def _batches(self, session: Session) -> dict[str, Batch]:
        if self._timing is None:
            seconds = partial(_seconds, session.run)
            self._timing = timing_batches(
                self._feeds, self._inputs, session.run, seconds, sizes=self._sizes
            )
        return self._timing

    @cached_property
    def _feeds(self) -> Feeds:
        given = self._context.feeds
        if given is None:
            return synthetic_feeds(self._start, seed=self._context.seed)
        return given.for_model(self._start)

    @cached_property
    def _dims(self) -> dict[str, int]:
        """The dynamic sizes of one sample."""
        batch = next(self._feeds.batches(1))
        return {
            f"{name}[{axis}]": size
            for name, array in batch.items()
            for axis, size in enumerate(array.shape)
        }


def _seconds(run: Callable[[Batch], object], batch: Batch) -> float:
    """How long a model takes, the second time."""
    run(batch)
    start = time.perf_counter()
    run(batch)
    return time.perf_counter() - start


def _judged(speed: Speed, details: Mapping[str, Detail]) -> Verdict:
    slower = {name: item for name, item in speed.settings.items() if _is_slower(item)}
    faster = [item for item in speed.settings.values() if item.faster and item.median < 1 / _EQUAL]
    if slower:
        return Verdict(False, f"slower or too uncertain on {Speed(slower)}", details)
    if not faster:
        return Verdict(False, f"no faster, {speed}", details)
    return Verdict(True, f"takes of the time {speed}", details)


def _is_slower(item: Paired) -> bool:
    """Whether it is slower, or may well be: one that could gain a lot has to show it."""
    if item.slower or item.faster:
        return item.slower
    measures = [item.latency] if item.work is None else [item.latency, item.work]
    return item.median > _EQUAL or min(ratios.bounds[1] for ratios in measures) > _NEAR


def _is_clearly_slower(item: Paired) -> bool:
    return item.slower and item.median > _EQUAL


def _counted(prospect: Outlook, before: Costs, after: Costs) -> str:
    numbers = (
        f"nodes {before.nodes} to {after.nodes}, weights {before.weight_bytes:,} to"
        f" {after.weight_bytes:,} bytes, MACs {_number(before.macs)} to {_number(after.macs)}"
    )
    if prospect is Outlook.OBVIOUS:
        return f"only some of the same work is left: {numbers}"
    return f"nothing gets cheaper: {numbers}"


def _number(known: int | None) -> str:
    return "unknown" if known is None else f"{known:,}"


def _ratios(speed: Speed, how: str = "") -> dict[str, Detail]:
    found: dict[str, Detail] = {}
    for name, item in speed.settings.items():
        found[f"ratio, {name}{how}"] = round(item.median, 4)
        found[f"ratio from, {name}{how}"] = round(item.bounds[0], 4)
        found[f"ratio to, {name}{how}"] = round(item.bounds[1], 4)
    return found
