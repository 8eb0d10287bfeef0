"""What `validate` found, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.report.numbers import error as short
from graphopt.report.numbers import seconds, share, size
from graphopt.report.tables import console, plain, table
from graphopt.runtime.by_node import first_parting, ranked

if TYPE_CHECKING:
    from rich.console import Console

    from graphopt.runtime.compare import OutputError
    from graphopt.runtime.feeds import Feeds
    from graphopt.runtime.latency import Latency, Ratio
    from graphopt.runtime.placement import Placement
    from graphopt.runtime.validation import Subject, Trial, Validation

_RANKED = 10
_ERRORS = ("output", "max abs", "max rel", "rms", "1 - cosine", "SQNR dB", "argmax", "equal")


def print_validation(found: Validation, subjects: Sequence[Subject], feeds: Feeds) -> None:
    """Print the verdicts, the errors, and what else was asked for."""
    out = console()
    sizes = {subject.name: subject.size for subject in subjects}
    short_names = _short_names([subject.name for subject in subjects])
    metric = f", {found.metric_name} {found.metric:.4f}" if found.metric is not None else ""
    title = (
        f"{short_names[found.reference]} ({size(sizes[found.reference])}{metric}),"
        f" {feeds.count:,} samples of {feeds.source}"
    )
    headings = (
        "candidate",
        "provider",
        "verdict",
        "metric",
        "size",
        "latency",
        "ratio",
        "nodes on",
    )
    rows = [
        (short_names[trial.candidate], *_verdict(trial, found, sizes)) for trial in found.trials
    ]
    out.print(table(plain(title, 400), headings, rows, right=(3, 4, 5)))
    _print_errors(out, found.trials, short_names)
    for trial in found.trials:
        _print_nodes(out, trial)
        if trial.status in {"absent", "fallback"}:
            where = f"{trial.candidate} on {trial.provider}"
            out.print(plain(f"not validated: {where}: {trial.reason}", 400), style="yellow")
    # The first line ends the command, on stderr.
    for failure in found.failures[1:]:
        out.print(plain(f"failed: {failure}", 400), style="red")


def record_of(found: Validation, subjects: Sequence[Subject], feeds: Feeds) -> dict[str, object]:
    """All of it, for JSON."""
    return {
        "reference": found.reference,
        "sizes": {subject.name: subject.size for subject in subjects},
        "data": feeds.source,
        "samples": feeds.count,
        "metric_name": found.metric_name,
        "metric": found.metric,
        "passed": not found.failures,
        "failures": found.failures,
        "trials": [_trial_record(trial) for trial in found.trials],
    }


def latency_record(latency: Latency | None, relative: Ratio | None) -> dict[str, object] | None:
    """A latency in seconds, and its ratio to the first model's."""
    if latency is None:
        return None
    return {
        "median": latency.median,
        "spread": latency.spread,
        "rounds": latency.rounds,
        "ratio": relative,
    }


def ratio_text(relative: Ratio | None) -> str:
    """A paired ratio with its quartiles."""
    if relative is None:
        return ""
    return f"{relative.median:.2f} ({relative.low:.2f} to {relative.high:.2f})"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """File names, where those tell the models apart."""
    short_names = {name: Path(name).name for name in names}
    distinct = len(set(short_names.values())) == len(short_names)
    return short_names if distinct else {name: name for name in names}


def _trial_record(trial: Trial) -> dict[str, object]:
    return {
        "candidate": trial.candidate,
        "provider": trial.provider,
        "status": trial.status,
        "reason": trial.reason,
        "outputs": trial.errors,
        "metric": trial.metric,
        "latency": latency_record(trial.latency, trial.ratio),
        "reference_latency": latency_record(trial.reference_latency, None),
        "placement": trial.placement,
        "tf32": trial.tf32,
        "first_node": first_parting(trial.nodes),
        "nodes": trial.nodes,
    }


def _verdict(trial: Trial, found: Validation, sizes: dict[str, int]) -> tuple[str, ...]:
    own = sizes[trial.candidate]
    base = sizes[found.reference]
    return (
        trial.provider,
        trial.status,
        "" if trial.metric is None else f"{trial.metric:.4f}",
        f"{size(own)} ({own / base:.2f}x)",
        "" if trial.latency is None else seconds(trial.latency.median),
        ratio_text(trial.ratio),
        "" if trial.placement is None else _placement(trial.placement),
    )


def _placement(placement: Placement) -> str:
    counts = [
        f"{name.removesuffix('ExecutionProvider')} {count}"
        for name, count in placement.nodes.items()
    ]
    copies = [f"{count} {name}" for name, count in placement.copies.items()]
    sizes = [f"{placement.shape_nodes} of them sizes"] if len(counts) > 1 else []
    return ", ".join((*counts, *sizes, *copies))


def _print_errors(out: Console, trials: Sequence[Trial], names: Mapping[str, str]) -> None:
    rows = [
        row for trial in trials for row in _error_rows(names[trial.candidate], trial, trial.errors)
    ]
    if rows:
        headings = ("candidate", "provider", *_ERRORS)
        out.print(table("Errors of the outputs", headings, rows, right=range(3, 9)))
    rows = [
        row for trial in trials for row in _error_rows(names[trial.candidate], trial, trial.tf32)
    ]
    if rows:
        headings = ("candidate", "provider", *_ERRORS)
        out.print(table("What TF32 changes", headings, rows, right=range(3, 9)))


def _error_rows(
    name: str, trial: Trial, errors: Sequence[OutputError]
) -> Iterator[tuple[str, ...]]:
    for error in errors:
        yield (
            name,
            trial.provider,
            error.name,
            short(error.max_abs),
            short(error.max_rel),
            short(error.rms),
            short(error.cosine),
            f"{error.sqnr_db:.1f}",
            share(error.argmax_agreement),
            "yes" if error.equal else "no",
        )


def _print_nodes(out: Console, trial: Trial) -> None:
    if not trial.nodes:
        return
    first = first_parting(trial.nodes)
    where = f"{trial.candidate} on {trial.provider}"
    if first is None:
        out.print(plain(f"{where}: no inner value of {len(trial.nodes)} parts", 400))
        return
    text = f"{where}: parts first at node {first.node!r} ({first.op_type}), value {first.value!r}"
    out.print(plain(text, 400))
    rows = [
        (node.node, node.op_type, node.value, short(node.max_abs), f"{node.sqnr_db:.1f}")
        for node in ranked(trial.nodes)[:_RANKED]
    ]
    headings = ("node", "operator", "value", "max abs", "SQNR dB")
    out.print(table("Nodes by error", headings, rows, right=(3, 4)))
