"""The cheapest cut between two sides of a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from itertools import pairwise

SOURCE = "source"
SINK = "sink"
FOREVER = 1 << 62
"""More than any cut costs."""


class Network:
    """Vertices, and what it costs to have one on the source's side and another on the sink's."""

    def __init__(self) -> None:
        self._rooms: dict[Hashable, dict[Hashable, int]] = {SOURCE: {}, SINK: {}}

    def add(self, start: Hashable, end: Hashable, cost: int) -> None:
        """Let it cost something to have `start` with the source and `end` with the sink."""
        if start == end:
            return
        rooms = self._rooms.setdefault(start, {})
        rooms[end] = rooms.get(end, 0) + cost
        self._rooms.setdefault(end, {}).setdefault(start, 0)

    def near_source(self) -> set[Hashable]:
        """Return the source's side of the cheapest cut, and of these the one with fewest vertices.

        By blocking flows (Dinic, 1970). It uses the network up.
        """
        while True:
            levels = self._levels()
            if SINK not in levels:
                return set(levels)
            self._fill(levels)

    def _levels(self) -> dict[Hashable, int]:
        """Say how far from the source all vertices are that can be reached, up to the sink."""
        levels: dict[Hashable, int] = {SOURCE: 0}
        waiting = deque[Hashable]([SOURCE])
        while waiting and SINK not in levels:
            start = waiting.popleft()
            for end, room in self._rooms[start].items():
                if room > 0 and end not in levels:
                    levels[end] = levels[start] + 1
                    waiting.append(end)
        return levels

    def _fill(self, levels: dict[Hashable, int]) -> None:
        """Fill paths on which each step leads away from the source, until there is none."""
        ends = {vertex: list(self._rooms[vertex]) for vertex in levels}
        path: list[Hashable] = [SOURCE]
        while path:
            start = path[-1]
            if start == SINK:
                self._push(path)
                path = [SOURCE]
            elif not ends[start]:
                path.pop()
                if path:
                    ends[path[-1]].pop()
            else:
                end = ends[start][-1]
                if self._rooms[start][end] > 0 and levels.get(end) == levels[start] + 1:
                    path.append(end)
                else:
                    ends[start].pop()

    def _push(self, path: list[Hashable]) -> None:
        steps = list(pairwise(path))
        room = min(self._rooms[start][end] for start, end in steps)
        for start, end in steps:
            self._rooms[start][end] -= room
            self._rooms[end][start] += room
