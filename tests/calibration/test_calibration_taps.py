from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import (
    ChannelRange,
    Histogram,
    MinMax,
    Moments,
    Statistic,
    collect,
)
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds

TEXTS = Path(__file__).parents[2] / "fixtures" / "text"
TINY, LARGE = 1, 256 << 20
Array = np.ndarray[Any, Any]


def read(name: str) -> ir.Model:
    return ir.from_onnx_text((TEXTS / f"{name}.onnxtxt").read_text())


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(
    model: ir.Model, feeds: Mapping[str, Array], names: Sequence[str], memory: int = LARGE
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    watch: dict[str, list[Statistic]] = {name: [MinMax()] for name in names}
    missing = collect(model, watch, Feeds(feeds), memory=memory, batch=8)
    ranges = {
        name: (one.low, one.high)
        for name, (one,) in watch.items()
        if name not in missing and isinstance(one, MinMax)
    }
    return ranges, missing


def extent(array: Array) -> tuple[float, float]:
    return pytest.approx((float(array.min()), float(array.max())), rel=1e-5)


@pytest.mark.parametrize("memory", [TINY, LARGE])
@pytest.mark.parametrize("inner", [True, False])
def test_both_branches_of_nested_ifs_are_watched(memory: int, inner: bool) -> None:
    model = read("nested_if")
    x = normal(5, 4)
    names = [
        "h",
        "y",
        "If_1/then_branch/shifted",
        "If_1/then_branch/If_1/then_branch/product_y",
        "If_1/then_branch/If_1/else_branch/passed_y",
        "If_1/else_branch/clipped_y",
    ]
    feeds = {"x": x, "outer": np.array(True), "inner": np.array(inner)}
    ranges, missing = seen(model, feeds, names, memory)
    assert not missing
    w = model.graph.initializers["w"].const_value
    assert w is not None
    h = x @ w.numpy()
    shifted = h + np.array([1, 2, 3, 4], np.float32)
    assert ranges["h"] == extent(h)
    assert ranges[names[2]] == extent(shifted)
    assert ranges[names[5]] == (np.inf, -np.inf)
    if inner:
        assert ranges[names[3]] == ranges["y"]
        assert ranges[names[4]] == (np.inf, -np.inf)
    else:
        assert ranges[names[4]] == extent(shifted)
        assert ranges[names[3]] == (np.inf, -np.inf)


@pytest.mark.parametrize("memory", [TINY, LARGE])
def test_all_iterations_of_a_loop_are_watched(memory: int) -> None:
    model = read("loop")
    x = normal(2, 3)
    names = ["state", "states", *(f"Loop_0/body/{name}" for name in ("before", "product", "after"))]
    ranges, missing = seen(model, {"x": x}, names, memory)
    assert not missing
    w = model.graph.initializers["w"].const_value
    assert w is not None
    states, products = [x], []
    for _ in range(4):
        products.append(states[-1] @ w.numpy())
        states.append(np.tanh(products[-1]))
    assert ranges["state"] == extent(states[-1])
    assert ranges["states"] == extent(np.stack(states[1:]))
    assert ranges["Loop_0/body/before"] == extent(np.stack(states[:-1]))
    assert ranges["Loop_0/body/product"] == extent(np.stack(products))
    assert ranges["Loop_0/body/after"] == extent(np.stack(states[1:]))


@pytest.mark.parametrize("memory", [TINY, LARGE])
def test_all_iterations_of_a_scan_are_watched(memory: int) -> None:
    model = read("scan")
    start, sequence = normal(3), normal(7, 3, seed=1)
    names = ["Scan_0/body/scaled", "Scan_0/body/sum", "total"]
    ranges, missing = seen(model, {"start": start, "sequence": sequence}, names, memory)
    assert not missing
    scaled = sequence * np.array([1, 0.5, 0.25], np.float32)
    sums = start + np.concatenate([np.zeros((1, 3), np.float32), np.cumsum(scaled, axis=0)])
    assert ranges["Scan_0/body/scaled"] == extent(scaled)
    assert ranges["Scan_0/body/sum"] == extent(sums[:-1])
    assert ranges["total"] == extent(sums[-1])


@pytest.mark.parametrize("memory", [TINY, LARGE])
def test_all_calls_of_a_function_are_watched(memory: int) -> None:
    model = read("functions")
    x = normal(6, 3)
    names = ["h", "y", "local:Dense/p", "local:Swish/gate", "local:Unused/y", "local:Dense/x"]
    ranges, missing = seen(model, {"x": x}, names, memory)
    assert missing == {"local:Unused/y": "inside a function that is not called"}
    weight, bias = (model.graph.initializers[name].const_value for name in ("w", "b"))
    assert weight is not None
    assert bias is not None
    first = x @ weight.numpy()
    h = first + bias.numpy()
    gate = 1 / (1 + np.exp(-1.5 * h))
    second = (h * gate) @ weight.numpy()
    assert ranges["local:Dense/p"] == extent(np.concatenate([first, second]))
    assert ranges["local:Dense/x"] == extent(np.concatenate([x, h * gate]))
    assert ranges["local:Swish/gate"] == extent(gate)


DEEP = """
<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
deep (float[N, 3] x) => (float[N, 3] y)
<int64 trips = {3}, bool keep = {1}, float limit = {0}>
{
    y = Loop (trips, keep, x) <
        body = step (int64 iteration, bool go_on, float[N, 3] before)
            => (bool still, float[N, 3] after)
        {
            still = Identity (go_on)
            two = Constant <value_int: int = 2> ()
            even = Mod (iteration, two)
            odd = Cast <to = 9> (even)
            after = If (odd) <
                then_branch = one () => (float[N, 3] called) { called = local.Twice (before) },
                else_branch = other () => (float[N, 3] halved) {
                    half = Constant <value_float: float = 0.5> ()
                    halved = Mul (before, half)
                }
            >
        }
    >
}
<domain: "local", opset_import: ["" : 20]>
Twice (v) => (w) { doubled = Add (v, v) w = Neg (doubled) }
"""


@pytest.mark.parametrize("memory", [TINY, LARGE])
def test_a_function_in_an_if_in_a_loop_is_watched_with_its_shapes(memory: int) -> None:
    model = ir.from_onnx_text(DEEP)
    x = normal(4, 3)
    plain, channels, counts = MinMax(), ChannelRange(1), Moments()
    watch: dict[str, list[Statistic]] = {
        "local:Twice/doubled": [plain, counts],
        "Loop_0/body/If_4/else_branch/halved": [channels],
        "Loop_0/body/iteration": [iterations := MinMax()],
    }
    assert not collect(model, watch, Feeds({"x": x}), memory=memory, batch=4)
    # Halved, doubled and negated, halved.
    first = x * 0.5
    assert (plain.low, plain.high) == extent(first * 2)
    assert counts.count == x.size
    expected = np.concatenate([first, -first * 2 * 0.5])
    assert channels.low is not None
    np.testing.assert_allclose(channels.low, expected.min(axis=0), rtol=1e-6)
    assert (iterations.low, iterations.high) == (0, 2)


def test_histograms_of_bodies_are_those_of_all_iterations() -> None:
    model, x = read("loop"), normal(2, 3)
    histogram = Histogram()
    assert not collect(model, {"Loop_0/body/product": [histogram]}, Feeds({"x": x}))
    assert histogram.count == 24


def test_the_model_stays_as_it_is() -> None:
    model = read("nested_if")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    feeds = {"x": normal(5, 4), "outer": np.array(True), "inner": np.array(False)}
    seen(model, feeds, ["If_1/then_branch/shifted", "h"])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_an_unknown_value_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="computes no value 'nothing'"):
        seen(read("loop"), {"x": normal(2, 3)}, ["nothing"])
