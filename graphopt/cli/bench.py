"""`graphopt bench`: latencies in interleaved rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.runtime_options import RuntimeOptions, runtime_options
from graphopt.cli.written_files import check_written_files
from graphopt.errors import CheckFailed, GraphoptError

if TYPE_CHECKING:
    from graphopt.runtime.benchmark import Timing
    from graphopt.runtime.feeds import Feeds


@click.command("bench")
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@runtime_options
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Samples per run; repeatable.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Measurements of each model.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of each model that are not counted.",
)
@click.option(
    "--spin/--no-spin",
    default=False,
    help="Let idle threads wait in a busy loop, as ONNX Runtime does by itself. One model alone is "
    "then faster, but the threads of each session slow the others'.  [default: no-spin]",
)
@click.option(
    "--sessions",
    is_flag=True,
    help="Also time the models behind the first together, as the members of an ensemble that is "
    "not fused: one after another, and all at once in a pool of sessions with one thread each.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write all of it as JSON; - is stdout.")
def command(
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    rounds: int,
    warmup: int,
    spin: bool,
    sessions: bool,
    json_target: str | None,
    **shared: Any,
) -> None:
    """Measure the latency of MODELS in interleaved rounds, and compare it with the first one's.

    Each round times every model once (short runs several at a time), so that what slows the machine
    slows all of them. The ratio is the median of the rounds' ratios, with its quartiles; the spread
    is the distance of the quartiles of the latency. Exits with 1 where a provider is absent or a
    model does not run.
    """
    from graphopt.cli.progress import shown_progress
    from graphopt.cli.validation_tables import latency_record
    from graphopt.report.json_file import write_json
    from graphopt.runtime.benchmark import Settings, measure

    common = RuntimeOptions(**shared)
    providers = common.parsed_providers()
    check_written_files({"--json": json_target}, [*models, common.data])
    subjects = [common.subject(path) for path in models]
    feeds = common.feeds(subjects[0], made_up=max(batches))
    if sessions and len(subjects) < 2:
        raise GraphoptError(
            "--sessions times the models behind the first together",
            fix="give the fused model, then its members",
        )
    settings = Settings(rounds, warmup, common.threads, spin, sessions)
    timings: list[Timing] = []
    with shown_progress() as show:
        for provider in providers:
            for batch in dict.fromkeys(batches):
                show(f"{provider.text}, batch {batch}", 0, None)
                timings.extend(measure(subjects, feeds, provider, batch, settings))
    if json_target is not None:
        records = [
            {**dataclasses.asdict(timing), "latency": latency_record(timing.latency, timing.ratio)}
            for timing in timings
        ]
        write_json({"data": feeds.source, "timings": records}, json_target)
    if json_target != "-":
        _print(timings, feeds)
    for timing in timings:
        if timing.reason is not None:
            raise CheckFailed(f"{timing.model} on {timing.provider}: {timing.reason}")


def _print(timings: Sequence[Timing], feeds: Feeds) -> None:
    from graphopt.cli.validation_tables import ratio_text
    from graphopt.report.numbers import seconds, share
    from graphopt.report.tables import console, plain, table

    rows = [
        (
            timing.model,
            timing.provider,
            str(timing.batch),
            "" if timing.latency is None else seconds(timing.latency.median),
            "" if timing.latency is None else share(timing.latency.spread),
            ratio_text(timing.ratio),
        )
        for timing in timings
    ]
    headings = ("model", "provider", "batch", "latency", "spread", "ratio to the first")
    out = console()
    out.print(table(plain(f"Latency on {feeds.source}"), headings, rows, right=(2, 3, 4)))
    for timing in timings:
        if timing.reason is not None:
            where = f"{timing.model} on {timing.provider}"
            out.print(plain(f"does not count: {where}: {timing.reason}", 400), style="yellow")
