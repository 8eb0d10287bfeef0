"""`graphopt bisect`: find the first rewrite that breaks a check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.pipeline_options import PipelineOptions, pipeline_options
from graphopt.cli.written_files import check_written_files
from graphopt.errors import CheckFailed, GraphoptError

if TYPE_CHECKING:
    from graphopt.pipeline.bisect import Culprit
    from graphopt.pipeline.instrument import Instrument


@click.command("bisect")
@click.argument("model", type=click.Path(path_type=Path))
@pipeline_options
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Also hold lossy passes to this signal to quantization noise ratio, in dB, against the "
    "model before the pass.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the find as JSON; - is stdout.")
def command(model: Path, min_sqnr: float | None, json_target: str | None, **values: Any) -> None:
    """Find the first rewrite of a pipeline over MODEL that breaks a check, and show it.

    Checks are those of `graphopt run`: onnx.checker, the interface, NaN, and for exact passes equal
    outputs. Exit code 1 where a rewrite breaks one, 0 where none does.
    """
    from graphopt.cli.progress import shown_progress
    from graphopt.pipeline.bisect import bisect
    from graphopt.pipeline.contract import Context
    from graphopt.pipeline.instruments import Checker, Compare

    options = PipelineOptions(**values)
    if options.pipeline is None and not options.functions:
        raise GraphoptError("there is no pipeline", fix="give -p PIPELINE or --pass")
    check_written_files({"--json": json_target}, [model, options.data])
    loaded = options.load(model)
    passes = options.passes(options.pipeline)
    feeds = options.feeds(loaded, options.data)

    def checks() -> list[Instrument]:
        return [Checker(), Compare(samples=options.verify_samples, min_sqnr=min_sqnr)]

    with shown_progress() as progress:
        context = Context(
            feeds=feeds,
            providers=options.providers or ("cpu",),
            seed=options.seed or 0,
            progress=progress,
            calibration_memory=options.calibration_memory,
            calibration_cache=options.calibration_cache,
        )
        culprit = bisect(loaded, passes, checks, context)
    _tell(culprit, json_target)


def _tell(culprit: Culprit | None, json_target: str | None) -> None:
    from graphopt.pipeline.surroundings import surroundings
    from graphopt.report.json_file import write_json

    around = ""
    if culprit is not None and culprit.after is not None:
        around = surroundings(culprit.before, culprit.after)
    if json_target is not None:
        write_json(_record(culprit, around), json_target)
    if culprit is None:
        if json_target != "-":
            click.echo("no rewrite breaks a check")
        return
    if json_target != "-":
        _show(culprit, around)
    raise CheckFailed(
        f"rewrite {culprit.number} breaks a check"
        if culprit.note is not None
        else f"{culprit.pass_text} fails outside of its rewrites"
    )


def _show(culprit: Culprit, around: str) -> None:
    if culprit.note is None:
        click.echo(f"{culprit.pass_text} fails outside of its rewrites: {culprit.problem}")
        return
    click.echo(f"rewrite {culprit.number}, by {culprit.pass_text}")
    click.echo(f"  at:  {culprit.note.at}")
    click.echo(f"  why: {culprit.note.why}")
    click.echo(f"breaks: {culprit.problem}")
    click.echo(around or "making it raises, so there is no model after it to show")
    click.echo(f"the last good model: graphopt run --limit {culprit.number - 1}")


def _record(culprit: Culprit | None, around: str) -> dict[str, object]:
    if culprit is None:
        return {"culprit": None}
    return {
        "culprit": {
            "number": culprit.number,
            "pass": culprit.pass_text,
            "rewrite": culprit.note,
            "problem": culprit.problem,
            "surroundings": around,
            "runs": culprit.runs,
        }
    }
