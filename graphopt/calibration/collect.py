"""Showing the values of a model to statistics, in few runs and bounded memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration.checkpoint import Checkpoint, checkpoint_key
from graphopt.calibration.grouping import runs
from graphopt.calibration.identity import data_digest, model_digest
from graphopt.calibration.plan import Plan, Watch
from graphopt.calibration.statistics import Array, ExtentStatistic, NotANumberError
from graphopt.calibration.tap_session import TapSession
from graphopt.calibration.taps import Form, Tap
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Batch, Feeds

Progress = Callable[[str, int, int | None], None]
_Returned = tuple[Mapping[str, Tap], dict[str, Any]]


def collect(
    model: ir.Model,
    watch: Watch,
    feeds: Feeds,
    *,
    providers: Sequence[str] = ("cpu",),
    memory: int = 256 << 20,
    batch: int | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, str]:
    """Show values of a model to statistics, over all samples.

    Values of the main graph, of bodies and of functions can be watched, and inputs as they are
    fed. Where all values together exceed the memory, extents are taken inside the graph, and the
    other values are distributed over several passes through the samples.

    Args:
        model: Stays as it is.
        watch: Statistics by the address of the value they watch (`Scope.at`). They are updated in
            place.
        feeds: The samples.
        providers: Execution providers, the preferred one first.
        memory: Bytes of activations that may be held at once; a single value of a single sample may
            exceed it.
        batch: Samples per run; None: as many as the memory allows, see `plan.most_samples`.
        progress: Told how many samples were run, see `Context.progress`.
        cache: The folder where statistics are kept between processes, also when this one is
            interrupted; None: nowhere.

    Returns:
        Why a value could not be watched, by its address; empty where all were. Its statistics are
        worth nothing then.

    Raises:
        GraphoptError: An activation is NaN (it is named, and the sample); there is no such value;
            the cache cannot be read or written.
    """
    feeds = feeds.for_model(model)
    checkpoint = Checkpoint(None, "", watch)
    if cache is not None:
        how = (tuple(providers), memory, batch)
        key = checkpoint_key((model_digest(model), data_digest(feeds), _versioned(how)), watch)
        checkpoint = Checkpoint(cache / f"calibration-{key[:32]}.npz", key, watch)
        checkpoint.read()
    if not checkpoint.finished:
        plan = Plan.of(model, watch, feeds, tuple(providers), memory, batch)
        checkpoint.missing.update(plan.missing)
        with checkpoint.kept():
            _Collection(plan, checkpoint, progress or (lambda phase, done, total: None)).run()
    return checkpoint.missing


def _versioned(how: object) -> str:
    import onnxruntime

    return f"{how!r} {onnxruntime.__version__}"


class _Collection:
    """What was seen so far.

    Args:
        plan: What to see.
        checkpoint: Keeps it.
        progress: See `collect`.
    """

    def __init__(self, plan: Plan, checkpoint: Checkpoint, progress: Progress) -> None:
        self.plan = plan
        self.missing, self.seen = checkpoint.missing, checkpoint.seen
        self._checkpoint, self._progress = checkpoint, progress
        self._again: tuple[tuple[str, ...], TapSession] | None = None

    def run(self) -> None:
        """Run all groups of values to the end of the samples."""
        groups = list(self._groups())
        total = sum(self.plan.count - self.seen.get(names[0], 0) for names in groups)
        done = 0
        for names in groups:
            for count in self._passing(names):
                done += count
                self._progress("calibration", done, total)

    def _groups(self) -> Iterator[tuple[str, ...]]:
        """Values that one pass over the samples shows, and that were seen equally often."""

        def seen(name: str) -> int:
            return self.seen.get(name, 0)

        left = [
            name
            for name in self.plan.sizes
            if seen(name) < self.plan.count and name not in self.missing
        ]
        for _, alike in itertools.groupby(sorted(left, key=seen, reverse=True), key=seen):
            sizes = {name: self.plan.sizes[name] for name in alike}
            yield from runs(sizes, self.plan.memory)

    def _passing(self, names: Sequence[str]) -> Iterator[int]:
        """Show the samples that are left to a group; yield how many came."""
        session = self._session({n: self.plan.forms[n] for n in names if n in self.plan.forms})
        with ThreadPoolExecutor(1) as runner:
            waiting: deque[tuple[int, Batch, Future[_Returned]]] = deque()
            for before, samples in self._left(names):
                waiting.append((before, samples, runner.submit(session.run, samples)))
                if len(waiting) == self.plan.at_once:
                    yield self._settle(names, session, *waiting.popleft())
            while waiting:
                yield self._settle(names, session, *waiting.popleft())

    def _left(self, names: Sequence[str]) -> Iterator[tuple[int, Batch]]:
        """The batches that a group has not seen, each with the number of samples before it."""
        start, at = self.seen.get(names[0], 0), 0
        for samples in self.plan.feeds.batches(self.plan.batch):
            before, at = at, at + self.plan.samples(samples)
            if before >= start:
                yield before, samples

    def _settle(
        self,
        names: Sequence[str],
        session: TapSession,
        before: int,
        samples: Batch,
        returned: Future[_Returned],
    ) -> int:
        """Show a batch to all statistics; return its number of samples."""
        taps, outputs = returned.result()
        count = self.plan.samples(samples)
        with self._checkpoint.batch():
            self.missing.update(session.missing)
            self._see(taps, outputs, names, samples, before)
            self.seen.update(dict.fromkeys(names, before + count))
        return count

    def _session(self, forms: Mapping[str, Form]) -> TapSession:
        plan = self.plan
        return TapSession(plan.places, forms, plan.providers, plan.bytes_computed)

    def _see(
        self,
        taps: Mapping[str, Tap],
        outputs: dict[str, Any],
        names: Sequence[str],
        samples: Batch,
        before: int,
    ) -> None:
        suspects = []
        for name in names:
            if name in self.missing:
                continue
            tap = taps.get(name)
            if tap is None:
                self._see_arrays(name, [samples[name]], before, samples)
            elif tap.form is not Form.EXTENT:
                self._see_arrays(name, tap.arrays(outputs), before, samples)
                tap.let_go(outputs)
            elif not self._see_extents(name, tap, outputs):
                suspects.append(name)
        sizes = {name: self.plan.whole_sizes[name] for name in suspects}
        for group in runs(sizes, self.plan.memory):
            self._see_again(group, samples, before)

    def _see_extents(self, name: str, tap: Tap, outputs: Mapping[str, Any]) -> bool:
        extents = list(tap.extents(outputs))
        if not all(plain for _, _, plain in extents):
            return False
        for low, high, _ in extents:
            for statistic in self.plan.watch[name]:
                assert isinstance(statistic, ExtentStatistic)
                statistic.update_extent(low, high)
        return True

    def _see_again(self, names: tuple[str, ...], samples: Batch, before: int) -> None:
        """Show values themselves where their extents tell of sentinels, or of NaN."""
        if self._again is None or self._again[0] != names:
            self._again = names, self._session(dict.fromkeys(names, Form.NUMBERS))
        session = self._again[1]
        taps, outputs = session.run(samples)
        self.missing.update(session.missing)
        for name in names:
            if name not in self.missing:
                self._see_arrays(name, taps[name].arrays(outputs), before, samples)

    def _see_arrays(self, name: str, arrays: Iterable[Array], before: int, samples: Batch) -> None:
        try:
            for array in arrays:
                if not isinstance(array, np.ndarray) or array.dtype.hasobject:
                    self.missing[name] = "it is no tensor of numbers"
                    return
                for statistic in self.plan.watch[name]:
                    statistic.update(array)
        except NotANumberError:
            where = self._sample(name, before, self.plan.samples(samples))
            raise GraphoptError(
                f"{name!r} is NaN on {where}",
                file=self.plan.feeds.source,
                fix="leave that sample out, or look at what computes the value",
            ) from None
        except ValueError as error:
            self.missing[name] = str(error)

    def _sample(self, name: str, before: int, count: int) -> str:
        """Name the sample of a batch on which a value is NaN."""
        forms = {name: Form.NUMBERS} if name in self.plan.forms else {}
        session = self._session(forms)
        at = 0
        for samples in self.plan.feeds.batches(1):
            here, at = at, at + self.plan.samples(samples)
            if here < before:
                continue
            if here >= before + count:
                break
            taps, outputs = session.run(samples)
            arrays = taps[name].arrays(outputs) if forms else [samples[name]]
            if any(np.isnan(array).any() for array in arrays):
                last = "" if at == here + 1 else f" to {at - 1}"
                return f"sample {here}{last}, counted from 0"
        return f"samples {before} to {before + count - 1}, counted from 0, run together"
