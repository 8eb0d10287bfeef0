"""What an untrusted file may ask for, as options of every command that loads a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LIMIT_OPTIONS = (
    click.option(
        "--max-bytes",
        type=click.IntRange(min=1),
        default=16 << 30,
        show_default="16 GiB",
        help="The most bytes that one tensor may occupy.",
    ),
    click.option(
        "--max-depth",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        help="How deep subgraphs may nest.",
    ),
    click.option(
        "--follow-symlinks",
        is_flag=True,
        help="Allow external data behind links that leave the folder, as in model caches.",
    ),
)


def with_options(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """Add options to a command, the first one first in its help."""
    for option in reversed(options):
        function = option(function)
    return function


def limit_options(function: F) -> F:
    """Add the options; `graphopt.model.Limits` takes them."""
    return with_options(function, LIMIT_OPTIONS)
