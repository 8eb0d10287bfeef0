"""`graphopt ensemble`: many models become one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.ensemble_tables import Made, print_made
from graphopt.cli.output_file import output_file
from graphopt.cli.pipeline_options import PipelineOptions, pipeline_options
from graphopt.cli.streams import STREAM, beside, errors_of
from graphopt.cli.written_files import MODEL, check_written_files, note_shared_data
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.cli.ensemble_tables import Finding
    from graphopt.cli.progress import Progress
    from graphopt.ensembles.build import Prepared
    from graphopt.model import Limits, Saved
    from graphopt.pipeline.instrument import Instrument
    from graphopt.pipeline.result import RunResult
    from graphopt.runtime.compare import OutputError
    from graphopt.runtime.feeds import Feeds

PIPELINE = "cleanup | dedupe | stack_members | fuse_siblings"
"""What makes the composed graph fast, where nothing else is asked for."""


@click.command("ensemble")
@click.argument("expression")
@click.argument("members", nargs=-1, required=True, metavar="NAME=MODEL...")
@click.option("-o", "--output", required=True, callback=output_file, help="Where the result goes.")
@pipeline_options
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="MEMBER.INPUT=NAME",
    help="Feed this input of a member from the ensemble's input of that name; repeatable.",
)
@click.option("--metric", metavar="NAME", help="What fitting maximizes on --data (with labels).")
@click.option(
    "--fit-weights",
    is_flag=True,
    help="Find the weights of the outermost sum, mean or vote on --data.",
)
@click.option(
    "--fit-method",
    type=click.Choice(("convex", "coordinate", "selection")),
    help="How: by log loss or squared error, by the metric along one weight at a time, or by "
    "adding members again and again.  [default: convex where there is such a loss]",
)
@click.option(
    "--fit-meta",
    type=click.Choice(("logistic", "ridge")),
    help="Fit the meta-model of a stack(...) that has none, with scikit-learn.",
)
@click.option(
    "--greedy-soup",
    is_flag=True,
    help="Let soup(...) average only the members that do not lower the metric.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Check the composed graph against numpy over its members' own outputs, and each pass "
    "behind it.  [default: verify]",
)
@click.option("--explain", is_flag=True, help="Print every rewrite and every decline, and why.")
@click.option("--json", "json_target", metavar="FILE", help="Write all of it as JSON; - is stdout.")
@click.option(
    "--external-data/--inline-data",
    default=None,
    help="Put weights beside the model or into it.  [default: beside it above 1.5 GB]",
)
def command(expression: str, members: tuple[str, ...], output: Path, **values: Any) -> None:
    """Fuse models into one graph that computes EXPRESSION over them.

    EXPRESSION reads as it is written: '0.5*a + 0.5*b', 'mean(softmax(a), softmax(b))', 'a >> b',
    'vote(a, b, c)', 'cascade(softmax(a), softmax(b), confidence=0.9)', 'soup(a, b)'. Several
    outputs: 'p = mean(a.p, b.p); label = argmax(p)'. Each name in it is given as NAME=MODEL.

    The composed graph is compared with numpy over the outputs of the members, then goes through a
    pipeline that shares and stacks what it can where that is faster, and is saved. -p gives another
    pipeline; -p '' leaves the graph as it was composed.
    """
    shared = {field.name: values.pop(field.name) for field in fields(PipelineOptions)}
    options = PipelineOptions(**shared)
    _Job(expression, members, output, options, _Settings(**values)).do()


@dataclass(frozen=True)
class _Settings:
    """The options that only `ensemble` has."""

    maps: tuple[str, ...]
    metric: str | None
    fit_weights: bool
    fit_method: str | None
    fit_meta: str | None
    greedy_soup: bool
    verify: bool
    explain: bool
    json_target: str | None
    external_data: bool | None

    @property
    def fits(self) -> bool:
        """Whether anything is found from data."""
        return self.fit_weights or self.fit_meta is not None or self.greedy_soup


@dataclass
class _Job:
    """One call of `graphopt ensemble`."""

    expression: str
    given: tuple[str, ...]
    output: Path
    options: PipelineOptions
    settings: _Settings
    files: dict[str, ir.Model] = field(default_factory=dict, init=False)
    """The models that are loaded, by their paths."""

    def do(self) -> None:
        from graphopt.cli.progress import shown_progress
        from graphopt.ensembles.build import NOTES_KEY

        self._check_usage()
        mapping = pairs(self.settings.maps, "--map", "MEMBER.INPUT=NAME")
        with shown_progress() as progress:
            prepared, findings = self._prepared(mapping, progress)
            model = prepared.build(mapping)
            notes = tuple(str(note) for note in model.meta[NOTES_KEY])
            feeds = self._feeds(model, mapping)
            errors = self._verify(model, prepared, mapping, feeds)
            result = self._run(model, feeds, progress)
        saved = self._save(result)
        for note in notes:
            click.echo(f"note: {note}", err=True)
        made = Made(prepared, findings, notes, errors, result, saved)
        if self.settings.json_target is not None:
            from graphopt.report.json_file import write_json

            write_json(made.as_json(), self.settings.json_target)
        if self.settings.json_target != STREAM:
            with beside(self.output):
                print_made(made, explain=self.settings.explain)

    def _check_usage(self) -> None:
        settings = self.settings
        members = pairs(self.given, "a member", "NAME=MODEL").values()
        check_written_files(
            {MODEL: self.output, "--json": settings.json_target},
            [self.options.data],
            replaceable=members,
        )
        if settings.fits and self.options.data is None:
            raise GraphoptError(
                "what is fitted needs samples", fix="give --data with an array named labels"
            )
        if settings.fits and settings.metric is None:
            raise GraphoptError("there is nothing to fit for", fix="give --metric NAME")
        if settings.fit_method is not None and not settings.fit_weights:
            raise GraphoptError("--fit-method says how, not what", fix="give --fit-weights too")

    def _prepared(
        self, mapping: Mapping[str, str], progress: Progress
    ) -> tuple[Prepared, tuple[Finding, ...]]:
        from graphopt.ensembles.build import prepare

        given = pairs(self.given, "a member", "NAME=MODEL")
        limits = self._limits()
        members: dict[str, ir.Model | Path] = {name: Path(path) for name, path in given.items()}
        if not self.settings.fits:
            return prepare(self.expression, members, limits=limits, files=self.files), ()
        from graphopt.cli.ensemble_fitting import Fitting

        fitting = Fitting(
            self.expression, members, limits, mapping, self.options, progress, self.files
        )
        return fitting.run(
            metric=str(self.settings.metric),
            greedy=self.settings.greedy_soup,
            meta=self.settings.fit_meta,
            weights=self.settings.fit_weights,
            method=self.settings.fit_method,
        )

    def _feeds(self, model: ir.Model, mapping: Mapping[str, str]) -> Feeds | None:
        """Open the data; what it has for inputs of members that the ensemble lacks is left out."""
        if self.options.data is None:
            return None
        from graphopt.runtime.feeds import open_feeds

        feeds = open_feeds(str(self.options.data))
        taken = {value.name for value in model.graph.inputs}
        others = {name for name in feeds.arrays if name not in taken}
        if others:
            from graphopt.ensembles.ports import names_of_inputs

            files = pairs(self.given, "a member", "NAME=MODEL")
            members = {name: self.files[str(Path(path))] for name, path in files.items()}
            feeds = feeds.without(others & names_of_inputs(members, mapping))
        return feeds.for_model(model)

    def _limits(self) -> Limits:
        from graphopt.model import Limits

        options = self.options
        return Limits(options.max_bytes, options.max_depth, options.follow_symlinks)

    def _verify(
        self,
        model: ir.Model,
        prepared: Prepared,
        mapping: Mapping[str, str],
        feeds: Feeds | None,
    ) -> tuple[OutputError, ...]:
        if not self.settings.verify:
            return ()
        from graphopt.ensembles.verification import verify
        from graphopt.runtime.synthetic import synthetic_feeds

        samples = (
            synthetic_feeds(model, seed=self.options.seed or 0)
            if feeds is None
            else feeds.take(self.options.verify_samples)
        )
        return verify(
            model,
            prepared.program,
            prepared.members,
            samples,
            mapping=mapping,
            providers=self.options.providers or ("cpu",),
        )

    def _run(self, model: ir.Model, feeds: Feeds | None, progress: Progress) -> RunResult:
        import tempfile

        from graphopt.pipeline import instruments
        from graphopt.pipeline.contract import Context
        from graphopt.pipeline.instruments.checker import check_problem
        from graphopt.pipeline.manager import run

        asked = PIPELINE if self.options.pipeline is None else self.options.pipeline
        passes = self.options.passes(asked if asked.strip() else None)
        watching: list[Instrument] = [instruments.Statistics()]
        if self.settings.verify:
            compare = instruments.Compare(samples=self.options.verify_samples)
            watching = [compare, *watching]
            # Where it refuses a member a note says so, and ONNX Runtime has run the ensemble.
            if check_problem(model, full=False) is None:
                watching.insert(0, instruments.Checker())
        context = Context(
            feeds=feeds,
            providers=self.options.providers or ("cpu",),
            seed=self.options.seed or 0,
            progress=progress,
            calibration_memory=self.options.calibration_memory,
            calibration_cache=self.options.calibration_cache,
        )
        reproducers = Path(tempfile.gettempdir())
        with errors_of(self.output):
            return run(model, passes, context, watching, reproducers=reproducers)

    def _save(self, result: RunResult) -> Saved:
        import importlib.metadata

        from graphopt.model import save
        from graphopt.pipeline.recipe import Recipe, write_recipe

        recipe = Recipe(
            pipeline=result.kept_pipeline,
            version=importlib.metadata.version("graphopt"),
            source_sha256="",
            seed=result.seed,
            incomplete="it begins with an ensemble, which `graphopt ensemble` makes",
        )
        if result.steps:
            write_recipe(result.model, recipe)
        saved = save(result.model, self.output, external_data=self.settings.external_data)
        note_shared_data(saved)
        return saved


def pairs(texts: Sequence[str], what: str, form: str) -> dict[str, str]:
    """Read `LEFT=RIGHT`.

    Raises:
        GraphoptError: A text has another form, or something stands twice on the left.
    """
    found: dict[str, str] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise GraphoptError(f"{what} is given as {text!r}", fix=f"write {form}")
        if left in found:
            raise GraphoptError(f"{what} {left!r} is given twice", fix="give it once")
        found[left] = right
    return found
