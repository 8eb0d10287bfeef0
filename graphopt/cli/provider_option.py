"""The option --provider, which many commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def provider_option(*, default: tuple[str, ...] = (), help: str) -> Callable[..., Any]:  # noqa: A002  # click's own word
    """Return an option whose names are execution providers of some build of ONNX Runtime.

    Args:
        default: What is run on where it is not given.
        help: Shown with the command.
    """
    return click.option(
        "--provider",
        "providers",
        multiple=True,
        default=default,
        show_default=bool(default),
        metavar="NAME",
        callback=_checked,
        help=help,
    )


def _checked(
    context: click.Context, parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    if names and not context.resilient_parsing and names != parameter.default:
        from graphopt.runtime.providers import check_known, parse_provider

        for name in names:
            check_known(parse_provider(name))
    return names
