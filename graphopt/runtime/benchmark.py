"""Several models' latencies, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.latency import Latency, Ratio, interleave, ratio
from graphopt.runtime.layout import inputs_of
from graphopt.runtime.providers import Provider
from graphopt.runtime.session import Session
from graphopt.runtime.validation import Subject


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        rounds: Measurements of each model.
        warmup: Runs of each that are not counted.
        threads: Threads inside an operator; None: ONNX Runtime's choice.
        spinning: Whether idle threads wait in a busy loop.
        sessions: Also time the models behind the first as the members of one ensemble would run
            without it: one after another, and all at once, each in a session of one thread.
    """

    rounds: int = 30
    warmup: int = 3
    threads: int | None = None
    spinning: bool = False
    sessions: bool = False


@dataclass(frozen=True)
class Timing:
    """One model, on one provider, at one batch size.

    Args:
        model: Its name.
        provider: As the user wrote it.
        batch: Samples per run.
        latency: Of a run; None: it was not timed.
        ratio: To the first model, round by round; None: that one was not timed.
        reason: Why it was not timed, or why it should not count: it ran elsewhere.
    """

    model: str
    provider: str
    batch: int
    latency: Latency | None = None
    ratio: Ratio | None = None
    reason: str | None = None


def measure(
    subjects: Sequence[Subject],
    feeds: Feeds,
    provider: Provider,
    batch: int,
    settings: Settings,
) -> list[Timing]:
    """Time models in interleaved rounds, on the same samples.

    Args:
        subjects: The models; the first is what the others are compared with.
        feeds: Laid out for them.
        provider: Where they run.
        batch: Samples per run; a model's fixed batch comes first.
        settings: How to measure.

    Raises:
        GraphoptError: There are not enough samples for a batch.
    """
    samples, size = _samples(feeds, batch)
    names = [subject.name for subject in subjects]
    runs: dict[int, Callable[[], object]] = {}
    reasons: dict[int, str] = {}
    for position, subject in enumerate(subjects):
        fed = _read_by(subject, samples) if settings.sessions else samples
        try:
            session, reason = _open(subject, provider, fed, settings)
        except CheckFailed as error:
            reasons[position] = str(error)
            continue
        runs[position] = _runner(session, fed)
        if reason is not None:
            reasons[position] = reason
    with ThreadPoolExecutor(min(len(subjects), os.cpu_count() or 1)) as pool:
        if settings.sessions:
            for name, run in _together(subjects, runs, pool, provider, samples, settings).items():
                runs[len(names)] = run
                names.append(name)
        found = interleave(list(runs.values()), rounds=settings.rounds, warmup=settings.warmup)
    latencies = dict(zip(runs, found, strict=True))
    first = latencies.get(0)
    return [
        Timing(
            name,
            provider.text,
            size,
            latency := latencies.get(position),
            ratio(latency, first) if latency is not None and first is not None else None,
            reasons.get(position),
        )
        for position, name in enumerate(names)
    ]


def _together(
    subjects: Sequence[Subject],
    alone: dict[int, Callable[[], object]],
    pool: ThreadPoolExecutor,
    provider: Provider,
    samples: Batch,
    settings: Settings,
) -> dict[str, Callable[[], object]]:
    """Run all models behind the first, in turn and at once; not where one does not run alone."""
    places = range(1, len(subjects))
    if not all(place in alone for place in places):
        return {}
    in_turn = [alone[place] for place in places]
    at_once = in_turn
    if settings.threads != 1:
        single, at_once = replace(settings, threads=1), []
        for subject in subjects[1:]:
            fed = _read_by(subject, samples)
            at_once.append(_runner(_open(subject, provider, fed, single)[0], fed))
    return {
        f"{len(in_turn)} sessions in turn": lambda: [run() for run in in_turn],
        f"{len(at_once)} sessions at once": lambda: list(pool.map(lambda run: run(), at_once)),
    }


def _read_by(subject: Subject, samples: Batch) -> Batch:
    """Return what a member of an ensemble reads of the samples for all of it."""
    own = {item.name for item in inputs_of(subject.model)}
    return {name: array for name, array in samples.items() if name in own}


def _samples(feeds: Feeds, batch: int) -> tuple[Batch, int]:
    size = feeds.layout.batch or batch
    count = feeds.count
    if count < size:
        raise GraphoptError(f"{count:,} samples do not fill a batch of {size:,}", file=feeds.source)
    return next(feeds.batches(size)), size


def _open(
    subject: Subject, provider: Provider, samples: Batch, settings: Settings
) -> tuple[Session, str | None]:
    session = Session(
        subject.source,
        (provider,),
        title=subject.name,
        threads=settings.threads,
        spinning=settings.spinning,
        profile=True,
    )
    session.run(samples)
    return session, session.placement().fallback(provider)


def _runner(session: Session, samples: Batch) -> Callable[[], object]:
    return lambda: session.run(samples)
