"""The rows of the tables of the HTML report, as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.model.facts import Facts
from graphopt.pipeline.result import RunResult, StepRecord
from graphopt.report.numbers import change, count, error, seconds, share, short_count, size
from graphopt.runtime.compare import OutputError


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: What stands above it.
        number: Whether it holds numbers, which are aligned right.
    """

    heading: str
    number: bool = True


PASS_COLUMNS = (
    Column("pass", number=False),
    Column("rewrites"),
    Column("declined"),
    Column("nodes"),
    Column("parameters"),
    Column("weights"),
    Column("MACs"),
    Column("sparsity"),
    Column("max abs error"),
    Column("SQNR"),
    Column("time"),
)
OUTPUT_COLUMNS = (
    Column("pass", number=False),
    Column("output", number=False),
    Column("max abs"),
    Column("max rel"),
    Column("RMS"),
    Column("1 - cosine"),
    Column("SQNR"),
    Column("same argmax"),
    Column("verdict", number=False),
)


def pass_rows(result: RunResult) -> list[tuple[str, ...]]:
    """Return a row per pass, as `PASS_COLUMNS` says."""
    return [_pass_row(step) for step in result.steps]


def output_rows(result: RunResult) -> list[tuple[str, ...]]:
    """Return a row per pass and output that was compared, as `OUTPUT_COLUMNS` says."""
    return [_output_row(step, output) for step in result.steps for output in step.errors]


def summary_rows(first: Facts, last: Facts) -> list[tuple[str, str, str, str]]:
    """Return what was measured, before, after, and by how much it changed."""
    return [
        ("weights", size(first.size), size(last.size), change(first.size, last.size)),
        (
            "parameters",
            count(first.parameters),
            count(last.parameters),
            change(first.parameters, last.parameters),
        ),
        ("nodes", count(first.nodes), count(last.nodes), change(first.nodes, last.nodes)),
        ("MACs", short_count(first.macs), short_count(last.macs), change(first.macs, last.macs)),
        ("sparsity", share(first.sparsity), share(last.sparsity), ""),
    ]


def decibels(value: float) -> str:
    """Write a signal to noise ratio: 31.4 dB, or `exact` where there is no noise."""
    return "exact" if value == float("inf") else f"{value:.1f} dB"


def _pass_row(step: StepRecord) -> tuple[str, ...]:
    before, after = step.before, step.after
    worst = max((output.max_abs for output in step.errors), default=None)
    sqnr = min((output.sqnr_db for output in step.errors), default=None)
    return (
        step.pass_text + (" (rolled back)" if step.rolled_back is not None else ""),
        count(len(step.rewrites)),
        count(len(step.declined)),
        _arrow(before, after, lambda facts: count(facts.nodes)),
        _arrow(before, after, lambda facts: count(facts.parameters)),
        _arrow(before, after, lambda facts: size(facts.size)),
        _arrow(before, after, lambda facts: short_count(facts.macs)),
        _arrow(before, after, lambda facts: share(facts.sparsity)),
        "" if worst is None else error(worst),
        "" if sqnr is None else decibels(sqnr),
        seconds(step.timing.seconds),
    )


def _output_row(step: StepRecord, output: OutputError) -> tuple[str, ...]:
    agreement = output.argmax_agreement
    return (
        step.pass_text,
        output.name,
        error(output.max_abs),
        error(output.max_rel),
        error(output.rms),
        error(output.cosine),
        decibels(output.sqnr_db),
        "" if agreement is None else share(agreement),
        _verdict(output),
    )


def _verdict(output: OutputError) -> str:
    if not output.finite:
        return "not finite"
    return "equal" if output.equal else "differs"


def _arrow(before: Facts | None, after: Facts | None, show: Callable[[Facts], str]) -> str:
    if before is None or after is None:
        return ""
    old, new = show(before), show(after)
    return new if old == new else f"{old} \N{RIGHTWARDS ARROW} {new}"
