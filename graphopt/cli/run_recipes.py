"""The recipes that `graphopt run` replays and leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.pipeline_options import PipelineOptions
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.pipeline.contract import Pass
    from graphopt.pipeline.recipe import Recipe
    from graphopt.pipeline.result import RunResult


@dataclass(frozen=True)
class Stage:
    """Passes that run with one seed and one limit; a recipe may have several stages.

    Args:
        passes: In the order in which they run.
        seed: The seed of the run.
        limit: Apply this many rewrites.
        source_sha256: What the recipe says that the stage began with; None: the file that is read.
    """

    passes: Sequence[Pass]
    seed: int
    limit: int | None = None
    source_sha256: str | None = None


def recipe_stages(
    options: PipelineOptions, path: Path, model: ir.Model, source: Path
) -> list[Stage]:
    """Return what a recipe says to run on a model: what is left of it, where it is a later stage.

    Args:
        options: The options of the command.
        path: The file of the model.
        model: What was loaded from it.
        source: The model that carries the recipe.

    Raises:
        GraphoptError: There is no recipe, or it cannot be replayed.
    """
    from graphopt.pipeline.recipe import read_recipe, source_sha256

    recipe = read_recipe(options.load(source))
    if recipe is None:
        raise GraphoptError("carries no recipe", file=source, fix="give the pipeline: -p")
    if recipe.incomplete is not None:
        cause = f"its recipe cannot be replayed: {recipe.incomplete}"
        raise GraphoptError(cause, file=source, fix="give the pipeline yourself: -p")
    sha256 = source_sha256(path, model)
    steps = recipe.steps_from(sha256)
    _warn_of_differences(options, steps, sha256)
    return [
        Stage(
            # Where a guard rolled every pass back, there is none.
            options.replayed(step.pipeline, source) if step.pipeline else (),
            step.seed if options.seed is None else options.seed,
            step.limit,
            step.source_sha256 if index else None,
        )
        for index, step in enumerate(steps)
    ]


def note_recipe(
    options: PipelineOptions,
    path: Path,
    source: ir.Model,
    stages: Sequence[Stage],
    results: Sequence[RunResult],
) -> None:
    """Write the recipe of a run into the model that came out of it.

    Args:
        options: The options of the command.
        path: The file of the model that went in.
        source: That model.
        stages: What was run.
        results: What came of each stage.
    """
    from graphopt.pipeline.recipe import next_recipe, source_sha256, write_recipe

    sha256 = source_sha256(path, source)
    recipes = [_recipe(options, *pair, sha256) for pair in zip(stages, results, strict=True)]
    recipe = replace(recipes[-1], history=tuple(recipes[:-1]))
    write_recipe(results[-1].model, next_recipe(source, recipe))


def _recipe(options: PipelineOptions, stage: Stage, result: RunResult, sha256: str) -> Recipe:
    import importlib.metadata

    from graphopt.pipeline.recipe import Recipe

    data = _data_sha256(options)
    from_code = options.data is not None and data is None
    return Recipe(
        pipeline=result.kept_pipeline,
        version=importlib.metadata.version("graphopt"),
        source_sha256=stage.source_sha256 or sha256,
        seed=stage.seed,
        limit=result.kept_rewrites if result.limited else None,
        data_sha256=data,
        incomplete=f"its data came from code: {options.data}" if from_code else None,
    )


def _warn_of_differences(options: PipelineOptions, steps: Sequence[Recipe], sha256: str) -> None:
    if steps[0].source_sha256 != sha256:
        click.echo("note: the recipe was made for another model than this one", err=True)
    wanted = {step.data_sha256 for step in steps} - {None}
    if wanted and _data_sha256(options) not in wanted:
        click.echo("note: the recipe was made with other data than this", err=True)


def _data_sha256(options: PipelineOptions) -> str | None:
    from graphopt.pipeline.recipe import file_sha256

    if options.data is None or not Path(options.data).exists():
        return None
    path = Path(options.data)
    return file_sha256(sorted(path.glob("*.npz")) if path.is_dir() else [path])
