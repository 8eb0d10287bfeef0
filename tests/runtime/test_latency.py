from __future__ import annotations

import pytest

from graphopt.runtime.latency import Latency, interleave, ratio


class Machine:
    """A clock that only runs move, and that records them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def run(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        # The machine gets slower all the time.
        self.now += seconds * (1 + len(self.calls) / 100)


def test_rounds_are_interleaved_and_drift_cancels() -> None:
    machine = Machine()
    runs = [lambda: machine.run("a", 1.0), lambda: machine.run("b", 2.0)]
    first, second = interleave(runs, rounds=5, warmup=2, clock=lambda: machine.now)
    assert machine.calls == ["a", "a", "b", "b"] + ["a", "b"] * 5
    assert first.rounds[-1] > first.rounds[0]
    relative = ratio(second, first)
    assert relative.median == pytest.approx(2.02, abs=0.01)
    assert relative.low <= relative.median <= relative.high


def test_short_runs_are_timed_several_at_a_time() -> None:
    machine = Machine()
    (found,) = interleave(
        [lambda: machine.run("a", 1e-4)], rounds=2, warmup=1, clock=lambda: machine.now
    )
    assert len(machine.calls) > 40
    assert found.median == pytest.approx(1e-4, rel=2)


def test_spread_is_the_distance_of_the_quartiles() -> None:
    assert Latency((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(2 / 3)
    assert Latency((2.0,)).spread == 0
    assert ratio(Latency((2.0,)), Latency((1.0,))).median == 2
