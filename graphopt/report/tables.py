"""Tables on a terminal. What models say in them is text from strangers, and shown as such."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LONGEST = 160


class _Console(Console):
    """A console whose reader may go away (`| head`): the command goes on to its own exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False) -> Console:
    """Return a console for results (stdout) or for logs (stderr).

    Markup is off: a model may name its nodes `[red]`. Where no terminal says how wide it is, lines
    get 120 columns.
    """
    stream = sys.stderr if stderr else sys.stdout
    return _Console(
        file=stream,
        width=None if stream.isatty() else 120,
        markup=False,
        highlight=False,
        emoji=False,
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
) -> Table:
    """Make a table.

    Args:
        title: Stands above it.
        columns: Their headings.
        rows: One string per column; line breaks and control characters become spaces.
        right: The columns of numbers, which are aligned right and never wrapped.
    """
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, heading in enumerate(columns):
        is_number = index in right
        made.add_column(
            Text(heading),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def plain(text: str, longest: int = _LONGEST) -> str:
    """Return a text in one line, without characters that steer a terminal, cut in the middle."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}…{text[-half:]}"
    return "".join(" " if unicodedata.category(letter) in _STEERING else letter for letter in text)


_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
