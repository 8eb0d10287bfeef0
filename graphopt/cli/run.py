"""`graphopt run`: rewrite a model by a pipeline of passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.output_file import output_file
from graphopt.cli.pipeline_options import PipelineOptions, pipeline_options
from graphopt.cli.run_recipes import Stage, note_recipe, recipe_stages
from graphopt.cli.streams import STREAM, beside, errors_of
from graphopt.cli.written_files import (
    MODEL,
    check_written_files,
    files_of,
    note_shared_data,
)
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.model import Saved
    from graphopt.pipeline.contract import Context
    from graphopt.pipeline.instrument import Instrument
    from graphopt.pipeline.reproducer import Reproducer
    from graphopt.pipeline.result import RunResult
    from graphopt.report.histogram import WeightHistograms


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", callback=output_file, help="Where the result goes.")
@pipeline_options
@click.option(
    "--recipe-from",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Replay the recipe that this model carries, instead of -p.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Check each pass: onnx.checker, and outputs on ONNX Runtime.  [default: verify]",
)
@click.option("--explain", is_flag=True, help="Print every rewrite and every decline, and why.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="Apply the first N rewrites only."
)
@click.option(
    "--guard-metric",
    metavar="NAME",
    help="Roll back passes that lose too much of this metric on --data (with labels).",
)
@click.option(
    "--guard-max-drop",
    type=float,
    metavar="X",
    help="How much of --guard-metric may be lost in all, in its own unit.  [default: 0]",
)
@click.option(
    "--guard-max-latency-ratio",
    type=float,
    metavar="X",
    help="Roll back passes that make the model more than X times as slow.",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the model after each pass in this folder.",
)
@click.option(
    "--reproducer",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where a failing pass leaves a folder that replays it.  [default: the temporary folder]",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the run as JSON; - is stdout.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="HTML",
    help="Write a report of the run; - is stdout.",
)
@click.option("--timing", is_flag=True, help="Print where the time went.")
@click.option("--dry-run", is_flag=True, help="Run everything, and save no model.")
@click.option(
    "--external-data/--inline-data",
    default=None,
    help="Put weights beside the model or into it.  [default: beside it above 1.5 GB]",
)
@click.option(
    "--sparse-storage", is_flag=True, help="Store weights as SparseTensor where that is smaller."
)
def command(model: Path, output: Path | None, **values: Any) -> None:
    """Rewrite MODEL by a pipeline of passes, check each of them, and save the result.

    MODEL may also be a folder that a failed run left: it is replayed.
    """
    shared = {field.name: values.pop(field.name) for field in fields(PipelineOptions)}
    _Job(model, output, PipelineOptions(**shared), _Settings(**values)).do()


@dataclass(frozen=True)
class _Settings:
    """The options that only `run` has."""

    recipe_from: Path | None
    verify: bool
    explain: bool
    limit: int | None
    guard_metric: str | None
    guard_max_drop: float | None
    guard_max_latency_ratio: float | None
    dump: Path | None
    reproducer: Path | None
    json_target: str | None
    report: Path | None
    timing: bool
    dry_run: bool
    external_data: bool | None
    sparse_storage: bool


@dataclass
class _Job:
    """One call of `graphopt run`."""

    path: Path
    output: Path | None
    options: PipelineOptions
    settings: _Settings
    _replay: Reproducer | None = field(default=None, init=False)
    _histograms: WeightHistograms | None = field(default=None, init=False)

    def do(self) -> None:
        from graphopt.pipeline.result import joined

        self._read_reproducer()
        self._check_usage()
        model = self.options.load(self.path)
        stages = self._stages(model)
        feeds = self.options.feeds(model, self.options.data)
        results = self._run(model, stages, feeds)
        result = joined(results)
        saved = self._save(model, result, stages, results)
        self._write(result, saved)

    def _read_reproducer(self) -> None:
        if not self.path.is_dir():
            return
        from graphopt.pipeline.reproducer import read_reproducer

        found = self._replay = read_reproducer(self.path)
        given = self.options
        self.path = found.model
        self.options = replace(
            given,
            data=given.data or (None if found.feeds is None else str(found.feeds)),
            seed=found.seed if given.seed is None else given.seed,
            providers=given.providers or found.providers,
        )

    def _check_usage(self) -> None:
        options, settings = self.options, self.settings
        if self.output is None and self._replay is None and not settings.dry_run:
            raise GraphoptError("there is no place for the result", fix="give -o OUT, or --dry-run")
        check_written_files(
            {MODEL: self.output, "--json": settings.json_target, "--report": settings.report},
            [options.data],
            replaceable=[self.path, settings.recipe_from],
        )
        replays = self._replay is not None or settings.recipe_from is not None
        if not (options.pipeline is not None or options.functions or replays):
            raise GraphoptError(
                "there is no pipeline", fix="give -p PIPELINE, --pass or --recipe-from"
            )
        if settings.recipe_from is not None and (
            options.pipeline is not None or settings.limit is not None
        ):
            raise GraphoptError("--recipe-from says what runs", fix="leave out -p and --limit")
        if settings.guard_max_drop is not None and settings.guard_metric is None:
            raise GraphoptError("--guard-max-drop is of no metric", fix="give --guard-metric")

    def _stages(self, model: ir.Model) -> list[Stage]:
        if self.settings.recipe_from is not None:
            return recipe_stages(self.options, self.path, model, self.settings.recipe_from)
        if self._replay is not None and self.options.pipeline is None:
            passes = self.options.replayed(self._replay.pipeline, self.path)
        else:
            passes = self.options.passes(self.options.pipeline)
        return [Stage(passes, self.options.seed or 0, self.settings.limit)]

    def _run(self, model: ir.Model, stages: Sequence[Stage], feeds: Any) -> list[RunResult]:
        import tempfile

        from graphopt.cli.progress import shown_progress
        from graphopt.pipeline.contract import Context
        from graphopt.pipeline.manager import run

        reproducers = self.settings.reproducer
        if reproducers is None and self._replay is None:
            reproducers = Path(tempfile.gettempdir())
        instruments = self._instruments()
        results: list[RunResult] = []
        with shown_progress() as progress:
            for stage in stages:
                context: Context = Context(
                    feeds=feeds,
                    providers=self.options.providers or ("cpu",),
                    seed=stage.seed,
                    progress=progress,
                    calibration_memory=self.options.calibration_memory,
                    calibration_cache=self.options.calibration_cache,
                )
                before = results[-1].model if results else model
                with errors_of(self.path):
                    result = run(
                        before,
                        stage.passes,
                        context,
                        instruments,
                        stage.limit,
                        reproducers=reproducers,
                    )
                results.append(result)
                if feeds is not None:
                    feeds = feeds.following(before, result.model)
        return results

    def _instruments(self) -> list[Instrument]:
        from graphopt.pipeline import instruments

        settings = self.settings
        chosen: list[Instrument] = []
        if settings.verify:
            chosen += [
                instruments.Checker(),
                instruments.Compare(samples=self.options.verify_samples),
            ]
        if settings.guard_metric is not None:
            drop = settings.guard_max_drop or 0.0
            chosen.append(instruments.MetricGuard(settings.guard_metric, drop))
        if settings.guard_max_latency_ratio is not None:
            chosen.append(instruments.LatencyGuard(settings.guard_max_latency_ratio))
        chosen.append(instruments.Statistics())
        if settings.dump is not None:
            chosen.append(instruments.Dump(settings.dump))
        if settings.report is not None:
            from graphopt.report.histogram import WeightHistograms

            self._histograms = WeightHistograms()
            chosen.append(self._histograms)
        return chosen

    def _save(
        self,
        source: ir.Model,
        result: RunResult,
        stages: Sequence[Stage],
        results: Sequence[RunResult],
    ) -> Saved | None:
        if self.output is None or self.settings.dry_run:
            return None
        from graphopt.model import save

        note_recipe(self.options, self.path, source, stages, results)
        saved = save(
            result.model,
            self.output,
            external_data=self.settings.external_data,
            sparse_storage=self.settings.sparse_storage,
        )
        note_shared_data(saved)
        return saved

    def _write(self, result: RunResult, saved: Saved | None) -> None:
        settings = self.settings
        if settings.report is not None:
            from graphopt.report.html import write_html
            from graphopt.report.numbers import size

            details = {} if saved is None else {"saved": f"{saved.path.name}, {size(saved.size)}"}
            histograms = () if self._histograms is None else self._histograms.found
            write_html(
                result,
                settings.report,
                model=self.path.name,
                histograms=histograms,
                details=details,
            )
        if settings.json_target is not None:
            from graphopt.report.json_file import write_json

            record = {"model": str(self.path), "saved": saved, **result.as_json()}
            write_json(record, settings.json_target)
        if STREAM not in (settings.json_target, str(settings.report)):
            with beside(self.output):
                self._print(result, saved)

    def _print(self, result: RunResult, saved: Saved | None) -> None:
        from graphopt.cli.run_tables import print_explanation, print_steps, print_timing
        from graphopt.report.numbers import size

        print_steps(result)
        if self.settings.explain:
            print_explanation(result)
        if self.settings.timing:
            print_timing(result.timing)
        if saved is None:
            click.echo("nothing saved")
            return
        sparse = f"; sparse storage saved {size(saved.sparse_saved)}" if saved.sparse_saved else ""
        click.echo(f"wrote {files_of(saved)}, {size(saved.size)}{sparse}")
