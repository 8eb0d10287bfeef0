"""How large values are found to be, and what ONNX Runtime spends on a graph beforehand."""

from __future__ import annotations

import weakref
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import Histogram, MinMax, collect, tap_session
from graphopt.calibration.plan import Plan
from graphopt.calibration.tap_session import TapSession
from graphopt.runtime.feeds import Feeds

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
sized (float[N, C, "?"] x) => (float[N, K, L] y, int64[R, P] places)
<int64[3] rows = {0, 0, -1}>
{
    summed = Add (x, x)
    kept = Reshape (summed, rows)
    y = Relu (kept)
    places = NonZero (x)
    far = Cast <to = 1> (places)
}
"""


def sizes_and_runs(*names: str) -> tuple[dict[str, int], int]:
    """Return the bytes of values for one sample of 3 x 5, and how many runs told them."""
    model = ir.from_onnx_text(MODEL)
    feeds = Feeds({"x": np.ones((4, 3, 5), np.float32)}).for_model(model)
    watch = {name: [MinMax()] for name in names}
    with mock.patch.object(TapSession, "run", autospec=True, side_effect=TapSession.run) as run:
        plan = Plan.of(model, watch, feeds, ("cpu",), 1 << 20, 1)
    return dict(plan.whole_sizes), run.call_count


def test_shapes_of_the_first_sample_tell_sizes_without_a_run() -> None:
    assert sizes_and_runs("summed", "kept", "y") == ({"summed": 60, "kept": 60, "y": 60}, 0)


def test_sizes_that_depend_on_numbers_are_measured() -> None:
    # Three indices for each of 15 numbers.
    expected = {"y": 60, "places": 360, "far": 180}
    assert sizes_and_runs("y", "places", "far") == (expected, 1)


@pytest.mark.parametrize(("samples", "level"), [(2, "none"), (2000, "all")])
def test_a_graph_is_optimized_where_the_samples_are_worth_it(samples: int, level: str) -> None:
    model = ir.from_onnx_text(MODEL)
    levels: list[str] = []

    def session(*args: Any, optimization: str, **options: Any) -> Any:
        levels.append(optimization)
        return original(*args, optimization=optimization, **options)

    original = tap_session.Session
    seen = MinMax()
    x = np.linspace(-1, 1, samples * 15, dtype=np.float32).reshape(samples, 3, 5)
    with mock.patch.object(tap_session, "Session", session):
        collect(model, {"summed": [seen]}, Feeds({"x": x}))
    assert levels == [level]
    assert (seen.low, seen.high) == (-2, 2)


def held_at_once(memory: int) -> tuple[int, int]:
    """Return the most bytes of values that were held at once, and the number of runs.

    There are 12 values of 4 KB for each sample.
    """
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    chain (float[N, 1024] v0) => (float[N, 1024] v12) { NODES }
    """
    nodes = " ".join(f"v{i + 1} = Neg (v{i})" for i in range(12))
    alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
    held: list[int] = []
    original = TapSession.run

    def run(session: TapSession, samples: Any) -> Any:
        taps, outputs = original(session, samples)
        alive.update({id(array): array for array in outputs.values()})
        held.append(sum(array.nbytes for array in alive.values()))
        return taps, outputs

    x = np.random.default_rng(0).standard_normal((9, 1024)).astype(np.float32)
    watch = {f"v{i}": [Histogram()] for i in range(1, 13)}
    with mock.patch.object(TapSession, "run", run):
        collect(
            ir.from_onnx_text(text.replace("NODES", nodes)), watch, Feeds({"v0": x}), memory=memory
        )
    assert all(one.count == x.size for (one,) in watch.values())
    return max(held), len(held)


@pytest.mark.parametrize(
    ("values", "most", "runs"), [(5, 5, 9 * 3), (12, 12, 9), (23, 12, 9), (24, 24, 9), (96, 96, 3)]
)
def test_no_more_is_held_than_the_memory_allows(values: int, most: int, runs: int) -> None:
    held, counted = held_at_once(values * 4096)
    assert held <= most * 4096
    assert counted == runs
