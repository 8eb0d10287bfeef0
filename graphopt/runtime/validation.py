"""Candidates against a reference, on each provider: errors, metric, latency, placement, verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.budget import Budget, judge_output
from graphopt.runtime.by_node import NodeError, compare_nodes
from graphopt.runtime.compare import Comparison, OutputError, compare_sessions
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.latency import Latency, Ratio, interleave, ratio
from graphopt.runtime.metrics import Collector, Metric, Outputs
from graphopt.runtime.placement import Placement
from graphopt.runtime.providers import Provider, ProviderAbsentError, require_offered
from graphopt.runtime.session import Session

_LARGE = 1 << 28
"""Bytes from which a model is left to ONNX Runtime to read."""


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Args:
        name: What messages call it, its path.
        model: Its graph.
        size: Bytes on disk, external data included.
        path: Where ONNX Runtime may read it from by itself.
    """

    name: str
    model: ir.Model
    size: int
    path: Path | None = None

    @property
    def source(self) -> ir.Model | Path:
        """What to make a session from.

        ONNX Runtime maps the weights of a file, but copies what is given to it as arrays: 0.4 GB
        against 4 GB of memory for 2 GB of weights. Small models are not read twice.
        """
        return self.path if self.path is not None and self.size >= _LARGE else self.model


@dataclass(frozen=True)
class Options:
    """How to validate.

    Args:
        providers: On which to run each candidate. The reference's outputs are the CPU's.
        budget: What a candidate may lose.
        metric: The task's metric, if any; the feeds must have labels then.
        require_provider: Fail where a provider is absent, or did not run all that it should.
        batch: Samples per run.
        rounds: Of latency; 0: do not measure it.
        by_node: Compare inner values, too.
        threads: Threads inside an operator; None: ONNX Runtime's choice.
        progress: Called with what is being done.
    """

    providers: Sequence[Provider]
    budget: Budget = field(default_factory=Budget)
    metric: Metric | None = None
    require_provider: bool = False
    batch: int = 32
    rounds: int = 15
    by_node: bool = False
    threads: int | None = None
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Trial:
    """One candidate on one provider.

    Args:
        candidate: Its name.
        provider: As the user wrote it.
        status: `passed`; `failed`; `absent`: the provider is not there; `fallback`: outputs are
            right, but nodes that should have run on the provider did not.
        reason: Why it did not pass.
        errors: Of each output.
        metric: The candidate's.
        latency: Of the candidate, on this provider.
        reference_latency: Of the reference, on this provider, in the same rounds.
        ratio: Candidate to reference, paired.
        placement: Where the candidate's nodes ran.
        tf32: What TF32 would change on this provider: the candidate with it against without.
        nodes: Inner values by node, in the candidate's order.
    """

    candidate: str
    provider: str
    status: str
    reason: str | None = None
    errors: tuple[OutputError, ...] = ()
    metric: float | None = None
    latency: Latency | None = None
    reference_latency: Latency | None = None
    ratio: Ratio | None = None
    placement: Placement | None = None
    tf32: tuple[OutputError, ...] = ()
    nodes: tuple[NodeError, ...] = ()


@dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Args:
        reference: Its name.
        metric_name: What was asked for; None: no metric.
        metric: The reference's, on the CPU.
        trials: Each candidate on each provider.
        failures: The lines that make this fail; empty: it passed.
    """

    reference: str
    metric_name: str | None
    metric: float | None
    trials: tuple[Trial, ...]
    failures: tuple[str, ...]


def validate(
    reference: Subject, candidates: Sequence[Subject], feeds: Feeds, options: Options
) -> Validation:
    """Compare candidates with a reference on each provider.

    Raises:
        CheckFailed: The reference does not run on the CPU.
        GraphoptError: The feeds do not fit the reference, or the metric cannot be computed.
    """
    feeds = feeds.for_model(reference.model)
    if options.budget.max_drop is not None and options.metric is None:
        raise GraphoptError("--max-drop is a drop of a metric", fix="give --metric, too")
    if options.metric is not None and feeds.labels is None:
        raise GraphoptError(
            f"the metric {options.metric.name!r} needs labels",
            file=feeds.source,
            fix="give --data with an array 'labels'",
        )
    job = _Job(reference, feeds, options)
    trials = [
        job.trial(candidate, provider) for provider in options.providers for candidate in candidates
    ]
    return Validation(
        reference.name,
        options.metric.name if options.metric else None,
        job.reference_metric,
        tuple(trials),
        tuple(_failures(trials, options)),
    )


def _failures(trials: Sequence[Trial], options: Options) -> list[str]:
    bad = {"failed", "absent", "fallback"} if options.require_provider else {"failed"}
    failures = [
        f"{trial.candidate} on {trial.provider}: {trial.reason}"
        for trial in trials
        if trial.status in bad
    ]
    if not failures and not any(trial.status == "passed" for trial in trials):
        failures.append(f"nothing was validated: {trials[0].reason}")
    return failures


class _Job:
    """What the trials of one validation share.

    Args:
        reference: The model that is right.
        feeds: Laid out for it.
        options: How to validate.
    """

    def __init__(self, reference: Subject, feeds: Feeds, options: Options) -> None:
        self._reference = reference
        self._feeds = feeds
        self._options = options
        options.progress(f"{reference.name} on cpu")
        self._session = Session(
            reference.source,
            title=f"reference {reference.name}",
            threads=options.threads,
            spinning=False,
        )
        self._expected: Outputs | None = None
        self.reference_metric = self._rate_reference()

    def trial(self, candidate: Subject, provider: Provider) -> Trial:
        """Run one candidate on one provider."""
        self._options.progress(f"{candidate.name} on {provider.text}")
        quiet = provider
        if provider.has_tf32:
            # TF32 keeps 10 bits of mantissa: parity is judged without it, its effect shown apart.
            quiet = provider.with_options(use_tf32="0")
        try:
            require_offered(provider)
            session = self._open(candidate, quiet, profile=True)
            return self._run(candidate, provider, session)
        except ProviderAbsentError as error:
            return Trial(candidate.name, provider.text, "absent", str(error))
        except CheckFailed as error:
            return Trial(candidate.name, provider.text, "failed", str(error))

    def _run(self, candidate: Subject, provider: Provider, session: Session) -> Trial:
        comparison = Comparison(self._session, session, tolerances=self._options.budget.tolerances)
        collector = Collector(self._kept())
        placement: Placement | None = None
        for samples in self._feeds.batches(self._options.batch):
            _, outputs = comparison.run(samples)
            collector.add(outputs)
            placement = placement or session.placement()
        errors = comparison.errors()
        metric, reason = self._rate_candidate(collector)
        reason = self._judge(errors, metric) or reason
        assert placement is not None, "feeds are never empty"
        fallback = placement.fallback(provider)
        status = "failed" if reason else "fallback" if fallback else "passed"
        base, own = self._latencies(provider, session)
        return Trial(
            candidate.name,
            provider.text,
            status,
            reason or fallback,
            errors,
            metric,
            own,
            base,
            ratio(own, base) if own and base else None,
            placement,
            self._tf32(candidate, provider, session),
            self._by_node(candidate, session),
        )

    def _open(self, subject: Subject, provider: Provider, *, profile: bool = False) -> Session:
        return Session(
            subject.source,
            (provider,),
            title=subject.name,
            threads=self._options.threads,
            spinning=False,
            profile=profile,
        )

    def _kept(self) -> list[str]:
        metric = self._options.metric
        if metric is None:
            return []
        return metric.outputs(self._session.output_names)

    def _rate_reference(self) -> float | None:
        if self._options.metric is None:
            return None
        collector = Collector(self._kept())
        for samples in self._feeds.batches(self._options.batch):
            collector.add(self._session.run(samples))
        self._expected = collector.outputs()
        return self._rate(collector)

    def _rate_candidate(self, collector: Collector) -> tuple[float | None, str | None]:
        """The metric, or why there is none: the reference's was defined on the same labels."""
        try:
            return self._rate(collector), None
        except GraphoptError as error:
            return None, str(error)

    def _rate(self, collector: Collector) -> float | None:
        metric, labels = self._options.metric, self._feeds.labels
        if metric is None or labels is None or self._expected is None:
            return None
        try:
            return metric.score(collector.outputs(), labels, self._expected)
        except GraphoptError as error:
            file = error.file or self._feeds.source
            raise GraphoptError(error.cause, file=file, fix=error.fix) from error

    def _judge(self, errors: Sequence[OutputError], metric: float | None) -> str | None:
        """The first thing wrong with a candidate."""
        budget = self._options.budget
        for error in errors:
            reason = judge_output(error, budget)
            if reason is not None:
                return reason
        if any(error.elements for error in errors) and not any(error.measured for error in errors):
            return "no output holds a finite number on these samples, so that nothing is compared"
        if budget.max_drop is None or metric is None or self.reference_metric is None:
            return None
        assert self._options.metric is not None
        drop = self._options.metric.drop(self.reference_metric, metric)
        # Written so that a NaN fails.
        if drop <= budget.max_drop:
            return None
        return (
            f"{self._options.metric.name} goes from {self.reference_metric:.4f} to {metric:.4f},"
            f" a drop of {drop:.4f}, over --max-drop {budget.max_drop:g}"
        )

    def _latencies(
        self, provider: Provider, candidate: Session
    ) -> tuple[Latency | None, Latency | None]:
        if not self._options.rounds:
            return None, None
        reference = self._session
        if not provider.is_cpu or provider.options:
            try:
                reference = self._open(self._reference, candidate.providers[0])
            except CheckFailed:
                # The reference need not run there: then there is nothing to be faster than.
                return None, None
        samples: Batch = next(self._feeds.batches(self._options.batch))
        base, own = interleave(
            [lambda: reference.run(samples), lambda: candidate.run(samples)],
            rounds=self._options.rounds,
        )
        return base, own

    def _tf32(
        self, candidate: Subject, provider: Provider, session: Session
    ) -> tuple[OutputError, ...]:
        if not provider.has_tf32:
            return ()
        rounded = self._open(candidate, provider.with_options(use_tf32="1"))
        return compare_sessions(session, rounded, self._feeds, batch=self._options.batch)

    def _by_node(self, candidate: Subject, session: Session) -> tuple[NodeError, ...]:
        if not self._options.by_node:
            return ()
        return compare_nodes(
            self._reference.model,
            candidate.model,
            self._feeds,
            providers=session.providers,
            batch=self._options.batch,
        )
