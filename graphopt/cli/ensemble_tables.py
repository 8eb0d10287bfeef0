"""What `graphopt ensemble` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from graphopt.cli.written_files import files_of

if TYPE_CHECKING:
    from graphopt.ensembles.build import Prepared
    from graphopt.model import Saved
    from graphopt.model.facts import Facts
    from graphopt.pipeline.result import RunResult
    from graphopt.runtime.compare import OutputError

Row = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What fitting found.

    Args:
        title: Of its table.
        headings: Of its columns; the first holds names.
        rows: As many texts as headings in each.
        lines: What is said below.
        details: The same for programs.
    """

    title: str
    headings: Row
    rows: Sequence[Row]
    lines: Sequence[str]
    details: object


@dataclass(frozen=True)
class Made:
    """What became of an ensemble.

    Args:
        prepared: What it was made of.
        findings: Of fitting.
        notes: What the user should be told of its members.
        errors: Of the composed graph against numpy; none where that was not asked for.
        result: What the passes made of it.
        saved: Where it is.
    """

    prepared: Prepared
    findings: Sequence[Finding]
    notes: Sequence[str]
    errors: Sequence[OutputError]
    result: RunResult
    saved: Saved

    def as_json(self) -> dict[str, object]:
        """Return all of it for programs."""
        return {
            "expression": self.prepared.text,
            "members": [_member(self.prepared, name) for name in self.prepared.members],
            "sources": self.prepared.origins,
            "fitted": [finding.details for finding in self.findings],
            "notes": self.notes,
            "verified": self.errors,
            "saved": self.saved,
            **self.result.as_json(),
        }


def print_made(made: Made, *, explain: bool) -> None:
    """Print members, fits, the comparison with numpy, and the steps of the pipeline."""
    from graphopt.cli.run_tables import print_explanation, print_steps
    from graphopt.report.numbers import size
    from graphopt.report.tables import console, plain, table

    out = console()
    rows = [_member_row(made.prepared, name) for name in made.prepared.members]
    rows += [
        (origin.name, origin.file or "", "", "", "")
        for origin in made.prepared.origins
        if origin.name not in made.prepared.members
    ]
    headings = ("member", "file", "nodes", "parameters", "size")
    out.print(table(plain(made.prepared.text, 400), headings, rows, right=(2, 3, 4)))
    for finding in made.findings:
        right = range(1, len(finding.headings))
        out.print(table(finding.title, finding.headings, finding.rows, right=right))
        for line in finding.lines:
            click.echo(line)
    for error in made.errors:
        click.echo(
            f"numpy over the members: output {error.name!r} equal, {error.elements:,} elements, "
            f"largest difference {error.max_abs:.3g}"
        )
    if made.result.steps:
        print_steps(made.result)
    if explain:
        print_explanation(made.result)
    click.echo(f"wrote {files_of(made.saved)}, {size(made.saved.size)}")


def _member_row(prepared: Prepared, name: str) -> Row:
    from graphopt.report.numbers import count, short_count, size

    facts = _facts(prepared, name)
    file = next((origin.file for origin in prepared.origins if origin.name == name), None)
    return (
        name,
        file or "",
        count(facts.nodes),
        short_count(facts.parameters),
        size(facts.size),
    )


def _member(prepared: Prepared, name: str) -> dict[str, object]:
    facts = _facts(prepared, name)
    return {"name": name, "nodes": facts.nodes, "parameters": facts.parameters, "size": facts.size}


def _facts(prepared: Prepared, name: str) -> Facts:
    from graphopt.model.facts import measure

    return measure(prepared.members[name])
