"""The table of what a pass found: wide texts wrap, and push no column out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from graphopt.cli.run_tables import _findings
from graphopt.report.tables import console


def test_long_details_leave_room_for_what_they_are_about() -> None:
    latency = ", ".join(f"batch {n}: 1.24x (1.12-1.34)" for n in (1, 8, 32, 64, 128))
    note = SimpleNamespace(at="dense_1", why="stays", details={"SQNR": 38.25, "latency": latency})
    step: Any = SimpleNamespace(pass_text="quantize", findings=[note])
    shown = console()
    with shown.capture() as text:
        shown.print(_findings(step))
    assert "dense_1" in text.get()
    assert "38.25" in text.get()
