"""`graphopt passes`: which passes there are, and what they take."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

import click

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.pipeline.contract import Pass
    from graphopt.pipeline.registry import Registry

_Record = dict[str, object]


@click.command("passes")
@click.argument("name", required=False)
@click.option("--json", "json_target", metavar="FILE", help="Write it as JSON; - is stdout.")
def command(name: str | None, json_target: str | None) -> None:
    """List the passes that are installed, or show what the pass NAME does and takes."""
    from graphopt.pipeline.registry import Registry
    from graphopt.report.json_file import write_json

    registry = Registry.installed()
    if name is not None:
        record = _one(registry, name)
        if json_target is not None:
            write_json(record, json_target)
        if json_target != "-":
            _print_one(record)
        return
    records, broken = _all(registry)
    if json_target is not None:
        write_json({"passes": records, "broken": broken}, json_target)
    if json_target != "-":
        _print_all(records)
    for problem in broken.values():
        click.echo(f"graphopt: {problem}", err=True)


def _all(registry: Registry) -> tuple[list[_Record], dict[str, str]]:
    records: list[_Record] = []
    broken: dict[str, str] = {}
    for name in registry:
        try:
            records.append(_brief(registry, name))
        except GraphoptError as error:
            # One package that does not load must not hide the passes of the others.
            broken[name] = str(error)
    return records, broken


def _brief(registry: Registry, name: str) -> _Record:
    from graphopt.pipeline.registry import summary

    found = registry.load(name)
    entry = registry.entry(name)
    return {
        "name": name,
        "effect": found.effect.value,
        "summary": summary(found),
        "distribution": entry.distribution,
    }


def _one(registry: Registry, name: str) -> _Record:
    found = registry.load(name)
    return {
        **_brief(registry, name),
        "target": registry.entry(name).target,
        "keeps_interface": found.keeps_interface,
        "parameters": _parameters(found),
        "documentation": inspect.getdoc(found) or "",
    }


def _parameters(found: type[Pass]) -> list[dict[str, str]]:
    from graphopt.pipeline.parameters import ParameterError, describe, hint_of
    from graphopt.pipeline.syntax import default_of, parameters

    rows = []
    for field in parameters(found):
        try:
            kind = describe(hint_of(found, field))
        except ParameterError:
            # An annotation that only a type checker can resolve is shown as it was written.
            kind = str(field.type)
        rows.append({"name": field.name, "type": kind, "default": _default(default_of(field))})
    return rows


def _default(value: object) -> str:
    from graphopt.pipeline.parameters import ParameterError, unparse_value

    if value is dataclasses.MISSING:
        return "(must be given)"
    try:
        return unparse_value(value)
    except ParameterError:
        # A default that text cannot hold is still a default.
        return repr(value)


def _print_all(records: list[_Record]) -> None:
    from graphopt.report.tables import console, table

    columns = ("name", "effect", "summary", "distribution")
    rows = [[str(record[column]) for column in columns] for record in records]
    console().print(table("Passes", columns, rows))


def _print_one(record: _Record) -> None:
    from graphopt.report.tables import console, table

    click.echo(f"{record['name']} ({record['effect']}), {record['distribution']}\n")
    click.echo(f"{record['documentation']}\n")
    parameters = record["parameters"]
    assert isinstance(parameters, list)
    columns = ("name", "type", "default")
    if parameters:
        rows = [[parameter[column] for column in columns] for parameter in parameters]
        console().print(table("Parameters", columns, rows))
    else:
        click.echo("It takes no parameters.")
