"""Several models' latencies, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.latency import Latency, Ratio, interleave, ratio
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
    """

    rounds: int = 30
    warmup: int = 3
    threads: int | None = None
    spinning: bool = False


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
    runs: dict[int, Callable[[], object]] = {}
    reasons: dict[int, str] = {}
    for position, subject in enumerate(subjects):
        try:
            session, reason = _open(subject, provider, samples, settings)
        except CheckFailed as error:
            reasons[position] = str(error)
            continue
        runs[position] = _runner(session, samples)
        if reason is not None:
            reasons[position] = reason
    found = interleave(list(runs.values()), rounds=settings.rounds, warmup=settings.warmup)
    latencies = dict(zip(runs, found, strict=True))
    first = latencies.get(0)
    return [
        Timing(
            subject.name,
            provider.text,
            size,
            latency := latencies.get(position),
            ratio(latency, first) if latency is not None and first is not None else None,
            reasons.get(position),
        )
        for position, subject in enumerate(subjects)
    ]


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
