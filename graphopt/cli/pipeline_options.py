"""What `run` and `bisect` have in common: a model, a pipeline, data, and how to open them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.limit_options import LIMIT_OPTIONS, F, with_options
from graphopt.cli.provider_option import provider_option
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.pipeline.contract import Pass
    from graphopt.runtime.feeds import Feeds

_OPTIONS = (
    click.option(
        "-p", "--pipeline", metavar="PIPELINE", help="Passes: 'cleanup | threshold(sparsity=0.5)'."
    ),
    click.option(
        "--pass",
        "functions",
        multiple=True,
        metavar="MODULE:FUNCTION",
        help="A function of an onnx_graphsurgeon graph, as a pass behind the pipeline; repeatable. "
        "Where a recipe or a reproducer is replayed: code that it may import.",
    ),
    click.option(
        "--data",
        metavar="NPZ",
        help="Samples: FILE.npz, a folder of such files, or module:function. Without, checks run "
        "on seeded random inputs.",
    ),
    provider_option(
        help="Execution provider to run models on, the preferred one first; repeatable."
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), help="Seed of everything random.  [default: 0]"
    ),
    click.option(
        "--verify-samples",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="Compare outputs on so many samples of the data, the first ones.",
    ),
    click.option(
        "--calibration-memory",
        type=click.IntRange(min=1),
        metavar="BYTES",
        default=256 << 20,
        show_default="256 MiB",
        help="The most bytes of activations that one calibration run may return.",
    ),
    click.option(
        "--calibration-cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep statistics of activations in this folder, also on Ctrl-C: the next run on the "
        "same model and data goes on from there.",
    ),
    *LIMIT_OPTIONS,
)


def pipeline_options(function: F) -> F:
    """Add the options; `PipelineOptions` takes them."""
    return with_options(function, _OPTIONS)


@dataclass(frozen=True)
class PipelineOptions:
    """The values of `pipeline_options`."""

    pipeline: str | None
    functions: tuple[str, ...]
    data: str | None
    providers: tuple[str, ...]
    seed: int | None
    verify_samples: int
    calibration_memory: int
    calibration_cache: Path | None
    max_bytes: int
    max_depth: int
    follow_symlinks: bool

    def load(self, path: Path) -> ir.Model:
        """Load a model within the limits asked for."""
        from graphopt.model import Limits, load

        return load(path, Limits(self.max_bytes, self.max_depth, self.follow_symlinks))

    def passes(self, text: str | None) -> tuple[Pass, ...]:
        """Read a pipeline, and put the functions asked for behind it."""
        from graphopt.pipeline.syntax import parse

        written = parse(text) if text is not None else ()
        return (*written, *self.function_passes())

    def replayed(self, text: str, source: Path) -> tuple[Pass, ...]:
        """Read a pipeline that a file holds; it may import no code but what was asked for.

        Args:
            text: The pipeline.
            source: The file.

        Raises:
            GraphoptError: It is no pipeline, or imports other code.
        """
        from graphopt.pipeline.reproducer import code_of
        from graphopt.pipeline.syntax import parse

        passes = parse(text)
        for work in passes:
            for code in code_of(work):
                if code not in self.functions:
                    raise GraphoptError(
                        f"its pipeline imports {code}",
                        file=source,
                        fix=f"if you trust that code, allow it: --pass {code}",
                    )
        return passes

    def function_passes(self) -> tuple[Pass, ...]:
        """Make a pass of each function asked for."""
        if not self.functions:
            return ()
        from graphopt.surgeon import surgeon_pass

        return tuple(map(surgeon_pass, self.functions))

    def feeds(self, model: ir.Model, spec: str | None) -> Feeds | None:
        """Open the data, and check that it fits the model; None where none is asked for."""
        if spec is None:
            return None
        from graphopt.runtime.feeds import open_feeds

        return open_feeds(spec).for_model(model)
