from __future__ import annotations

import random
from itertools import product

from passes.cleanup.min_cut import SINK, SOURCE, Network


def test_nothing_is_near_a_source_without_edges() -> None:
    assert Network().near_source() == {SOURCE}


def test_the_cheapest_cut_is_that_of_all_cuts() -> None:
    rng = random.Random(5)
    inner = ["a", "b", "c", "d", "e"]
    for _ in range(200):
        edges = [
            (start, end, rng.randrange(1, 9))
            for start in [SOURCE, *inner]
            for end in [*inner, SINK]
            if start != end and rng.random() < 0.4
        ]
        costs = {}
        for sides in product((False, True), repeat=len(inner)):
            near = {SOURCE, *(name for name, is_near in zip(inner, sides, strict=True) if is_near)}
            costs[frozenset(near)] = sum(
                cost for start, end, cost in edges if start in near and end not in near
            )
        network = Network()
        for start, end, cost in edges:
            network.add(start, end, cost)
        found = frozenset(network.near_source())
        least = min(costs.values())
        assert costs[found] == least
        assert len(found) == min(len(near) for near, cost in costs.items() if cost == least)
