from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from watched_net import NET, Array, net_feeds, normal

from graphopt.calibration import (
    ChannelRange,
    Histogram,
    MinMax,
    Moments,
    Rule,
    Statistic,
    collect,
    ranges,
    statistics,
)
from graphopt.calibration.tap_session import TapSession
from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds

TINY = 1

MASKED = """
<ir_version: 10, opset_import: ["" : 20]>
masked (float[N, 4] x, bool[N, 4] keep) => (float[N, 4] y)
<float lowest = {-3.4028235e38}>
{
    zero = Constant <value_float: float = 0.0> ()
    mask = Where (keep, zero, lowest)
    scores = Add (x, mask)
    y = Softmax (scores)
}
"""


@pytest.mark.parametrize("memory", [TINY, 100, 1 << 20])
def test_inputs_outputs_integers_and_flags_are_watched(memory: int) -> None:
    model, feeds = ir.from_onnx_text(NET), net_feeds()
    names = ["x", "ids", "doubled", "root", "y", "row", "cast", "flags"]
    watch = {name: [MinMax(), Moments()] for name in names}
    assert not collect(model, watch, Feeds(feeds), memory=memory)
    x, ids = feeds["x"], feeds["ids"]
    table = np.resize(np.arange(10.0), (10, 4))
    expected = {
        "x": x,
        "ids": ids,
        "doubled": x + x,
        "root": np.sqrt(x + x),
        "y": np.sqrt(x + x),
        "row": table[ids],
        "cast": table[ids],
        "flags": x > x + x,
    }
    for name, (extent, moments) in watch.items():
        seen = expected[name].astype(np.float64)
        assert extent.low == pytest.approx(seen.min(), rel=1e-6)
        assert extent.high == pytest.approx(seen.max(), rel=1e-6)
        assert moments.count == seen.size
        assert moments.mean == pytest.approx(seen.mean(), rel=1e-6)


@pytest.mark.parametrize("memory", [TINY, 1 << 20])
def test_shapes_may_vary_from_batch_to_batch(memory: int) -> None:
    parts = [net_feeds(3, 1), net_feeds(2, 2), net_feeds(4, 3)]
    parts[1]["x"] = np.abs(normal(2, 3, 9, seed=9))
    feeds = Feeds(parts[0], parts=lambda: iter(parts))
    extent, counts = MinMax(), Moments()
    watch: dict[str, list[Statistic]] = {"doubled": [counts], "y": [extent]}
    assert not collect(ir.from_onnx_text(NET), watch, feeds, memory=memory)
    assert counts.count == sum(part["x"].size for part in parts)
    high = max(float(part["x"].max()) for part in parts)
    assert extent.high == pytest.approx(np.sqrt(2 * high), rel=1e-6)


@pytest.mark.parametrize("memory", [TINY, 1 << 20])
def test_nan_is_an_error_that_names_tensor_and_sample(memory: int) -> None:
    feeds = net_feeds()
    feeds["x"][7, 1, 2] = -1.0
    with pytest.raises(GraphoptError, match=r"calib.npz: 'root' is NaN on sample 7, counted from"):
        collect(
            ir.from_onnx_text(NET),
            {"root": [MinMax()]},
            Feeds(feeds, source="calib.npz"),
            memory=memory,
        )


@pytest.mark.parametrize("memory", [TINY, 1 << 20])
def test_masks_move_no_range(memory: int) -> None:
    x, keep = normal(6, 4), np.random.default_rng(1).random((6, 4)) < 0.5
    context = Context(feeds=Feeds({"x": x, "keep": keep}), calibration_memory=memory)
    model = ir.from_onnx_text(MASKED)
    found = ranges(model, ["scores", "y", "mask"], context)
    kept = x[keep]
    expected = (min(0.0, float(kept.min())), max(0.0, float(kept.max())))
    assert found["scores"] == pytest.approx(expected)
    assert found["mask"] == (0.0, 0.0)
    only = Context(feeds=Feeds({"x": x, "keep": np.zeros((6, 4), bool)}))
    found = ranges(model, ["mask", "scores", "y"], only)
    assert list(found) == ["y"]
    assert found.missing == dict.fromkeys(
        ["mask", "scores"], "on the data it holds no numbers, or masks only"
    )


def test_float16_and_bfloat16_masks_are_the_lowest_numbers_of_their_types() -> None:
    for dtype, number in ((ir.DataType.FLOAT16, np.float16), (ir.DataType.BFLOAT16, None)):
        lowest = -65504.0 if number else -3.39e38
        text = MASKED.replace("-3.4028235e38", str(lowest)).replace(
            "y = Softmax (scores)",
            f"low = Cast <to = {int(dtype)}> (scores) y = Cast <to = 1> (low)",
        )
        model = ir.from_onnx_text(text)
        x, keep = normal(6, 4), np.eye(6, 4, dtype=bool)
        context = Context(feeds=Feeds({"x": x, "keep": keep}))
        low, high = ranges(model, ["low"], context)["low"]
        rounded = x[keep].astype(number or ml_dtypes.bfloat16).astype(np.float32)
        assert (low, high) == (min(0, rounded.min()), max(0, rounded.max()))


def test_what_cannot_be_watched_is_named() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    odd (float[N] x) => (float[N] y)
    {
        two = Constant <value_float: float = 2.0> ()
        y = Mul (x, two)
        text = Cast <to = 8> (y)
        pieces = SplitToSequence (y)
    }
    """
    watch = {name: [MinMax()] for name in ("two", "text", "pieces", "y")}
    missing = collect(ir.from_onnx_text(text), watch, Feeds({"x": normal(5)}))
    assert missing.keys() == {"two", "text", "pieces"}
    assert missing["two"] == "it is a constant"
    assert missing["text"] == "it holds text"
    missing = collect(ir.from_onnx_text(text), {"y": [ChannelRange(1)]}, Feeds({"x": normal(5)}))
    assert missing == {"y": "no axis 1 in shape (5,)"}


def test_a_shape_that_changes_within_a_scan_is_named() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    scan (float[N, 3] x) => (float[N] y)
    {
        y = Scan <num_scan_inputs = 1, body = step (float[3] row) => (float total)
            {
                places = NonZero (row)
                axes = Constant <value_ints: ints = [0]> ()
                total = ReduceSum <keepdims = 0> (row, axes)
            }
        > (x)
    }
    """
    x = np.array([[1, 0, 2], [1, 2, 3], [0, 0, 1]], np.float32)
    places = Histogram()
    total = Histogram()
    watch = {"Scan_0/body/places": [places], "Scan_0/body/total": [total]}
    missing = collect(ir.from_onnx_text(text), watch, Feeds({"x": x}), batch=3)
    assert missing.keys() == {"Scan_0/body/places"}
    assert total.count == 3
    assert total.high == 6


def test_a_model_that_fails_on_its_own_says_so() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    broken (float[N, M] x) => (float[N, M] y)
    <int64[2] shape = {7, 11}>
    { wrong = Reshape (x, shape) y = Relu (x) }
    """
    with pytest.raises(GraphoptError, match="does not run"):
        collect(ir.from_onnx_text(text), {"wrong": [MinMax()]}, Feeds({"x": normal(3, 4)}))


def test_one_run_serves_what_fits_into_memory() -> None:
    feeds = Feeds(net_feeds(16))
    names = ("doubled", "root", "y")
    runs: list[int] = []
    original = TapSession.run

    def counted(session: TapSession, batch: Any) -> Any:
        runs.append(len(session.taps))
        return original(session, batch)

    with mock.patch.object(TapSession, "run", counted):
        collect(ir.from_onnx_text(NET), {n: [Histogram()] for n in names}, feeds, batch=8)
        whole = [taps for taps in runs if taps]
        runs.clear()
        collect(ir.from_onnx_text(NET), {n: [Histogram()] for n in names}, feeds, memory=100)
        parted = [taps for taps in runs if taps]
        runs.clear()
        collect(ir.from_onnx_text(NET), {n: [MinMax()] for n in names}, feeds, memory=160)
        reduced = [taps for taps in runs if taps]
    assert whole == [3, 3]
    assert parted == [2] * 16 + [1] * 16
    assert reduced == [3] * 16


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    model = ir.from_onnx_text(NET)

    def peak(count: int) -> int:
        def parts() -> Iterator[Mapping[str, Array]]:
            for number in range(count):
                yield {"x": np.abs(normal(8, 2, 5000, seed=number)), "ids": np.arange(8)}

        feeds = Feeds(next(parts()), parts=parts).for_model(model)
        tracemalloc.start()
        watch = {name: [Histogram(), Moments()] for name in ("x", "doubled", "y")}
        assert not collect(model, watch, feeds, batch=8)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert watch["y"][0].state()["counts"].sum() == count * 80000
        return highest

    peak(1)
    assert peak(24) < 1.2 * peak(3)


def test_given_ranges_go_before_methods() -> None:
    context = Context(feeds=Feeds(net_feeds()))
    rule = Rule("minmax", given={"y": (1.0, 3.0)})
    found = ranges(ir.from_onnx_text(NET), ["y", "row"], context, rule)
    assert found["y"] == (0.0, 3.0)
    assert found["row"] == (0.0, 9.0)


def test_statistics_in_general_and_their_errors() -> None:
    model = ir.from_onnx_text(NET)
    context = Context(feeds=Feeds(net_feeds()))
    seen = statistics(model, {"y": [lambda: ChannelRange(1), Moments]}, context)
    channels, moments = seen.found["y"]
    assert isinstance(channels, ChannelRange)
    assert channels.high is not None
    assert channels.high.shape == (2,)
    assert isinstance(moments, Moments)
    assert moments.count == 100
    with pytest.raises(GraphoptError, match="calibration needs data"):
        ranges(model, ["y"], Context())


def test_inputs_that_are_not_fed_and_initializers_are_named() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    defaults (float[N, 2] x, float[2] shift = {1, 2}) => (float[N, 2] y)
    <float[2] shift = {1, 2}, float[2] scale = {3, 4}>
    { moved = Add (x, shift) y = Mul (moved, scale) }
    """
    text = text.replace("float[2] shift = {1, 2}) =>", "float[2] shift) =>")
    watch = {name: [MinMax()] for name in ("shift", "scale", "y")}
    missing = collect(ir.from_onnx_text(text), watch, Feeds({"x": normal(3, 2)}))
    assert missing == {"shift": "it is not fed", "scale": "it is a constant"}
