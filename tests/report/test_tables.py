from __future__ import annotations

import io

from rich.console import Console

from graphopt.report.tables import plain, table


def render(width: int, *rows: tuple[str, ...]) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, color_system=None)
    console.print(table("Title", ("name", "count"), rows, right=(1,)))
    return out.getvalue()


def test_cells_are_text() -> None:
    shown = render(80, ("[bold]a[/bold]\x1b[31m\n\u202eb", "1"))
    assert "[bold]a[/bold] [31m  b" in shown
    assert "\x1b" not in shown


def test_long_names_are_folded_and_none_is_lost() -> None:
    shown = render(30, ("x" * 60, "12,345"))
    assert shown.count("x") == 60
    assert "12,345" in shown


def test_plain_cuts_in_the_middle() -> None:
    cut = plain("a" * 100 + "b" * 100, 20)
    assert cut == "a" * 10 + "\N{HORIZONTAL ELLIPSIS}" + "b" * 10
