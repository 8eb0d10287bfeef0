"""What `graphopt run` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.model.facts import Facts
    from graphopt.pipeline.contract import Detail
    from graphopt.pipeline.result import Note, RunResult, StepRecord, Timing
    from graphopt.runtime.compare import OutputError

_COLUMNS = (
    "pass",
    "effect",
    "rewrites",
    "declined",
    "nodes",
    "parameters",
    "size",
    "MACs",
    "sparsity",
    "outputs",
    "seconds",
)


def print_steps(result: RunResult) -> None:
    """Print one row per pass, the model that came in above them."""
    from graphopt.report.tables import console, table

    rows = [_row(step) for step in result.steps]
    if result.steps and (facts := result.steps[0].before):
        rows.insert(0, ("(source)", "", "", "", *_facts(facts), "", ""))
    numbers = [index for index in range(2, len(_COLUMNS)) if _COLUMNS[index] != "outputs"]
    console().print(table("Pipeline", _COLUMNS, rows, right=numbers))
    for step in result.steps:
        for name, value in step.measures.items():
            click.echo(f"{step.pass_text}: {name} {value:.4g}")
        if step.rolled_back is not None:
            click.echo(f"{step.pass_text}: rolled back: {step.rolled_back}")
        if step.findings:
            console().print(_findings(step))
    if result.limited:
        click.echo(f"stopped by --limit after {result.kept_rewrites} rewrites")


def print_explanation(result: RunResult) -> None:
    """Print every rewrite and every decline with its reason, by pass, in the order they came."""
    for step in result.steps:
        undone = ", rolled back" if step.rolled_back is not None else ""
        click.echo(
            f"{step.pass_text}: {len(step.rewrites)} rewrites,"
            f" {len(step.declined)} declined{undone}"
        )
        for note in step.rewrites:
            click.echo(f"  rewrote   {_line(note)}")
        for note in step.declined:
            click.echo(f"  declined  {_line(note)}")


def print_timing(timing: Timing, depth: int = 0) -> None:
    """Print where the time went, as a tree."""
    click.echo(f"{'  ' * depth}{timing.seconds:9.3f} s  {timing.name}")
    for part in timing.parts:
        print_timing(part, depth + 1)


def _row(step: StepRecord) -> tuple[str, ...]:
    from graphopt.report.numbers import count

    return (
        step.pass_text,
        step.effect,
        count(len(step.rewrites)),
        count(len(step.declined)),
        *_facts(step.after),
        "rolled back" if step.rolled_back is not None else _errors(step.errors),
        f"{step.timing.seconds:.2f}",
    )


def _findings(step: StepRecord) -> Table:
    from graphopt.report.tables import table

    keys = tuple(dict.fromkeys(key for note in step.findings for key in note.details))
    rows = [
        (note.at, note.why, *(_detail(note.details.get(key)) for key in keys))
        for note in step.findings
    ]
    numbers = [
        index
        for index, key in enumerate(keys, start=2)
        if not any(isinstance(note.details.get(key), str) for note in step.findings)
    ]
    return table(step.pass_text, ("at", "finding", *keys), rows, right=numbers)


def _detail(value: Detail) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(facts: Facts | None) -> tuple[str, str, str, str, str]:
    from graphopt.report.numbers import count, share, short_count, size

    if facts is None:
        return ("", "", "", "", "")
    return (
        count(facts.nodes),
        short_count(facts.parameters),
        size(facts.size),
        short_count(facts.macs),
        share(facts.sparsity),
    )


def _errors(errors: Sequence[OutputError]) -> str:
    if not errors:
        return ""
    if all(error.equal for error in errors):
        return "equal"
    worst = min(errors, key=lambda error: error.sqnr_db)
    return f"{worst.name}: {worst.sqnr_db:.1f} dB"


def _line(note: Note) -> str:
    from graphopt.report.tables import plain

    return plain(f"{note.at}: {note.why}", 2000)
