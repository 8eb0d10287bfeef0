"""Where the time of a run goes, as a tree."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.pipeline.result import Timing


class Stopwatch:
    """Measures wall clock from when it is made until it is stopped.

    Args:
        name: What it measures.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = time.perf_counter()
        self._seconds: float | None = None
        self._parts: dict[str, float] = {}
        self._children: list[Stopwatch] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a block to a part; a part may be entered many times."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - began

    def child(self, name: str) -> Stopwatch:
        """Start a stopwatch inside this one."""
        self._children.append(Stopwatch(name))
        return self._children[-1]

    def stop(self) -> Timing:
        """Return what was measured; the first call stops the clock."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._began
        parts = tuple(Timing(name, seconds) for name, seconds in self._parts.items())
        return Timing(
            self._name, self._seconds, (*parts, *(child.stop() for child in self._children))
        )
