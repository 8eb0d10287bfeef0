"""What `validate` and `bench` have in common: models, data, providers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.limit_options import LIMIT_OPTIONS, F, with_options
from graphopt.cli.provider_option import provider_option
from graphopt.cli.streams import errors_of

if TYPE_CHECKING:
    from graphopt.runtime.feeds import Feeds
    from graphopt.runtime.providers import Provider
    from graphopt.runtime.validation import Subject

_OPTIONS = (
    click.option(
        "--data",
        metavar="NPZ",
        help="Samples: FILE.npz, a folder of such files, or module:function. Without, seeded "
        "inputs are made up.",
    ),
    provider_option(
        default=("cpu",),
        help="Execution provider: cpu, cuda, any name that ONNX Runtime offers, or Name=library.so;"
        " with options as in cuda:device_id=0,use_tf32=0; repeatable.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of made-up inputs.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Threads inside an operator.  [default: ONNX Runtime's choice]",
    ),
    *LIMIT_OPTIONS,
)


def runtime_options(function: F) -> F:
    """Add the options; `RuntimeOptions` takes them."""
    return with_options(function, _OPTIONS)


@dataclass(frozen=True)
class RuntimeOptions:
    """The values of `runtime_options`."""

    data: str | None
    providers: tuple[str, ...]
    seed: int
    threads: int | None
    max_bytes: int
    max_depth: int
    follow_symlinks: bool

    def subject(self, path: Path) -> Subject:
        """Load a model within the limits asked for."""
        from graphopt.model import Limits, load
        from graphopt.model.load import STREAM_KEY, Stream
        from graphopt.pipeline.recipe import data_files
        from graphopt.runtime.trapping_division import check_divisions
        from graphopt.runtime.validation import Subject

        model = load(path, Limits(self.max_bytes, self.max_depth, self.follow_symlinks))
        with errors_of(path):
            check_divisions(model)
        stream = model.meta.get(STREAM_KEY)
        if isinstance(stream, Stream):
            return Subject(str(path), model, stream.size, None)
        size = sum(file.stat().st_size for file in (path, *data_files(model, path)))
        # ONNX Runtime follows no links out of the folder.
        readable = None if self.follow_symlinks else path
        return Subject(str(path), model, size, readable)

    def feeds(self, first: Subject, *, made_up: int, limit: int | None = None) -> Feeds:
        """Open the data and check that they fit a model, or make samples up for it.

        Args:
            first: The model that says what fits.
            made_up: How many samples to make up where there is no data, and no limit.
            limit: Only so many samples, the first ones.
        """
        if self.data is None:
            from graphopt.runtime.synthetic import synthetic_feeds

            return synthetic_feeds(first.model, seed=self.seed, samples=limit or made_up)
        from graphopt.runtime.feeds import open_feeds

        return open_feeds(self.data, limit=limit).for_model(first.model)

    def parsed_providers(self) -> tuple[Provider, ...]:
        """Read the providers; one that is named twice counts once."""
        from graphopt.runtime.providers import parse_providers

        return parse_providers(tuple(dict.fromkeys(self.providers)))
