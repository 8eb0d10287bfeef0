"""The cheapest cut between two sides of a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

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

        By augmenting shortest paths (Edmonds and Karp, 1972). It uses the network up.
        """
        while True:
            came_from = self._search()
            if SINK not in came_from:
                return set(came_from)
            path = list[tuple[Hashable, Hashable]]()
            vertex: Hashable = SINK
            while vertex != SOURCE:
                path.append((came_from[vertex], vertex))
                vertex = came_from[vertex]
            room = min(self._rooms[start][end] for start, end in path)
            for start, end in path:
                self._rooms[start][end] -= room
                self._rooms[end][start] += room

    def _search(self) -> dict[Hashable, Hashable]:
        """Return all that can be reached, and from where."""
        came_from: dict[Hashable, Hashable] = {SOURCE: SOURCE}
        waiting = deque[Hashable]([SOURCE])
        while waiting and SINK not in came_from:
            start = waiting.popleft()
            for end, room in self._rooms[start].items():
                if room > 0 and end not in came_from:
                    came_from[end] = start
                    waiting.append(end)
        return came_from
