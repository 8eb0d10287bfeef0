"""The files that a command writes: looked at before its work, and told behind it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.streams import STREAM
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.model import Saved

MODEL = "-o"


def check_written_files(
    targets: Mapping[str, object],
    read: Iterable[object] = (),
    *,
    replaceable: Iterable[object] = (),
) -> None:
    """Raise GraphoptError where a command could not write what it is asked for, or would lose it.

    Args:
        targets: What it writes, by option: paths, `-` for stdout, None where nothing is asked for.
        read: What it reads and must not replace; what is no path to a file does not count.
        replaceable: What it reads and `-o` may replace: a model that is edited in place.
    """
    from graphopt.model.atomic import check_target

    written = {option: str(target) for option, target in targets.items() if target is not None}
    _check_streams(written)
    files = {option: Path(text) for option, text in written.items() if text != STREAM}
    for path in files.values():
        check_target(path)
    for (one, path), (other, second) in itertools.combinations(files.items(), 2):
        if _same(path, second):
            raise GraphoptError(
                f"{one} and {other} would write the same file", file=path, fix="name two files"
            )
    kept, edited = (
        [Path(str(source)) for source in sources if source] for sources in (read, replaceable)
    )
    for option, path in files.items():
        unlike = kept if option == MODEL else [*kept, *edited]
        held = any(_holds_data(path, source) for source in [*kept, *edited])
        if held or any(_same(path, source) for source in unlike):
            raise GraphoptError(
                f"{option} would replace what is read", file=path, fix="name another file"
            )


def files_of(saved: Saved) -> str:
    """Name the model that was saved, and count its data files."""
    count = len(saved.data_files)
    if not count:
        return str(saved.path)
    return f"{saved.path} and {count} data file{'s' if count > 1 else ''}"


def note_shared_data(saved: Saved) -> None:
    """Say on stderr which data files a model goes on reading that are not its own."""
    if saved.shared:
        names = ", ".join(path.name for path in saved.shared)
        click.echo(
            f"note: {saved.path} goes on reading {names}, so keep them together; saved into "
            "another folder, it would have all of its weights",
            err=True,
        )


def _check_streams(written: Mapping[str, str]) -> None:
    mixed = [f"{option} {STREAM}" for option, text in written.items() if text == STREAM]
    if len(mixed) > 1:
        raise GraphoptError(
            f"{' and '.join(mixed)} would mix on stdout",
            fix="name a file for all but one of them",
        )


def _holds_data(path: Path, source: Path) -> bool:
    """Whether a model has weights in a file, as far as its bytes tell."""
    from graphopt.model.datafiles import mentions

    if source.suffix == ".npz" or not (path.exists() and source.is_file()) or _same(path, source):
        return False
    beside = path.resolve().is_relative_to(source.resolve().parent)
    return beside and mentions(source, path.name)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
