"""How large values are found to be, and what ONNX Runtime spends on a graph beforehand."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import MinMax, collect, tap_session
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
