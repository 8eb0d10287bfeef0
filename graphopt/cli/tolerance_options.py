"""What the outputs of a conversion may differ by, as `convert` and `export` ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from graphopt.runtime.difference import Tolerance

_Command = TypeVar("_Command", bound=Callable[..., object])


def tolerance_options(command: _Command) -> _Command:
    """Add --rtol and --atol."""
    for option, kind in (("--atol", "Absolute"), ("--rtol", "Relative")):
        command = click.option(
            option,
            type=click.FloatRange(min=0),
            callback=_finite,
            help=f"{kind} tolerance of the comparison.",
        )(command)
    return command


def _finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    # A comparison with NaN says yes to everything.
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not finite.", param=option)
    return value


def tolerance_of(rtol: float | None, atol: float | None) -> Tolerance | None:
    """Make a tolerance of the two options; None: neither was given."""
    from graphopt.runtime.difference import Tolerance

    return None if rtol is None and atol is None else Tolerance(rtol or 0.0, atol or 0.0)
