from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest
from watched_net import NET, Array, net_feeds

from graphopt.calibration import (
    Histogram,
    MinMax,
    Moments,
    Rule,
    Statistic,
    collect,
    ranges,
)
from graphopt.calibration.tap_session import TapSession
from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds


def watched() -> dict[str, list[Statistic]]:
    return {name: [MinMax(), Histogram(), Moments()] for name in ("x", "doubled", "y", "row")}


def states(watch: Mapping[str, list[Statistic]]) -> list[tuple[str, str, str, list[Any]]]:
    return [
        (name, repr(one), part, array.tolist())
        for name, many in watch.items()
        for one in many
        for part, array in one.state().items()
    ]


@pytest.mark.parametrize("memory", [200, 1 << 20])
def test_the_next_run_goes_on_where_ctrl_c_stopped(tmp_path: Path, memory: int) -> None:
    model, feeds = ir.from_onnx_text(NET), net_feeds(20)
    fitted = Feeds(feeds).for_model(model)
    expected = watched()
    collect(model, expected, fitted, memory=memory, batch=4)
    folder = tmp_path / "new" / "cache"
    total = 0

    def stop(phase: str, done: int, steps: int | None) -> None:
        nonlocal total
        total = steps or 0
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, watched(), fitted, memory=memory, batch=4, cache=folder, progress=stop)
    (file,) = folder.iterdir()
    resumed = watched()
    totals: list[int | None] = []
    collect(
        model,
        resumed,
        fitted,
        memory=memory,
        batch=4,
        cache=folder,
        progress=lambda phase, done, total: totals.append(total),
    )
    assert states(resumed) == states(expected)
    assert totals[0] is not None
    assert totals[0] < total
    before = file.stat().st_mtime_ns
    again = watched()
    with mock.patch.object(TapSession, "run", side_effect=AssertionError):
        collect(model, again, fitted, memory=memory, batch=4, cache=folder)
    assert states(again) == states(expected)
    assert file.stat().st_mtime_ns == before


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_waits_until_all_statistics_saw_the_batch(tmp_path: Path) -> None:
    model, feeds = ir.from_onnx_text(NET), Feeds(net_feeds(20)).for_model(ir.from_onnx_text(NET))

    class Interrupts(MinMax):
        def update(self, batch: Array) -> None:
            super().update(batch)
            os.kill(os.getpid(), signal.SIGINT)

    watch: dict[str, list[Statistic]] = {"x": [Interrupts()], "doubled": [Histogram()]}
    with pytest.raises(KeyboardInterrupt):
        collect(model, watch, feeds, batch=8, cache=tmp_path)
    counted = watch["doubled"][0]
    assert isinstance(counted, Histogram)
    assert counted.count == 8 * 10
    assert len(list(tmp_path.iterdir())) == 1


def test_other_models_data_and_statistics_have_other_files(tmp_path: Path) -> None:
    model, data = ir.from_onnx_text(NET), net_feeds()
    changed = ir.from_onnx_text(NET.replace("{0, 1, 2", "{1, 1, 2"))
    moved = {**data, "x": data["x"] + 1}
    runs: list[Callable[[], object]] = [
        lambda: collect(model, {"row": [MinMax()]}, Feeds(data), cache=tmp_path),
        lambda: collect(changed, {"row": [MinMax()]}, Feeds(data), cache=tmp_path),
        lambda: collect(model, {"row": [MinMax()]}, Feeds(moved), cache=tmp_path),
        lambda: collect(model, {"row": [Histogram()]}, Feeds(data), cache=tmp_path),
        lambda: collect(model, {"row": [Histogram(64)]}, Feeds(data), cache=tmp_path),
        lambda: collect(model, {"y": [MinMax()]}, Feeds(data), cache=tmp_path),
        lambda: collect(model, {"y": [MinMax()]}, Feeds(data).take(5), cache=tmp_path),
    ]
    for number, run in enumerate(runs, 1):
        run()
        assert len(list(tmp_path.iterdir())) == number
    runs[0]()
    assert len(list(tmp_path.iterdir())) == len(runs)


@pytest.mark.parametrize("damage", ["cut", "foreign", "garbage", "state"])
def test_a_damaged_cache_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    model, feeds = ir.from_onnx_text(NET), Feeds(net_feeds())
    collect(model, {"y": [Histogram()]}, feeds, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "garbage":
        file.write_bytes(b"\0" * 1000)
    elif damage == "foreign":
        np.savez(file, facts=np.zeros(3))
    else:
        with np.load(file) as archive:
            arrays = dict(archive)
        arrays["0.counts"] = np.ones(10**5, np.int64)
        np.savez(file, **arrays)
    with pytest.raises(GraphoptError, match=file.name) as caught:
        collect(model, {"y": [Histogram()]}, feeds, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.fix == "delete it"


def test_a_run_collects_once() -> None:
    model, context = ir.from_onnx_text(NET), Context(feeds=Feeds(net_feeds()))
    with mock.patch.object(collecting_module(), "collect", side_effect=collect) as called:
        first = ranges(model, ["y", "doubled"], context, Rule("percentile", 99.0))
        again = ranges(model, ["y"], context, Rule("mse"), ir.DataType.INT8, symmetric=True)
        assert called.call_count == 1
        assert again.keys() == {"y"}
        twin = ir.from_onnx_text(NET)
        assert ranges(twin, ["y", "doubled"], context, Rule("percentile", 99.0)) == first
        assert called.call_count == 1
        other = ir.from_onnx_text(NET.replace("{0, 1, 2", "{1, 1, 2"))
        ranges(other, ["y"], context, Rule("percentile", 99.0))
        assert called.call_count == 2
        ranges(model, ["y"], replace(context, feeds=Feeds(net_feeds(5))), Rule("percentile", 99.0))
        assert called.call_count == 3


def collecting_module() -> Any:
    import sys

    return sys.modules["graphopt.calibration.ranges"]
