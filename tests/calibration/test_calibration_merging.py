"""Any split of the data, merged in any order, gives what all data at once gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibration import (
    ChannelMean,
    ChannelRange,
    ChannelSquares,
    Histogram,
    MinMax,
    Moments,
    MovingAverage,
    NotANumberError,
    Patches,
    Rows,
    SecondMoments,
    Statistic,
    second_moments,
)

Array = np.ndarray[Any, Any]

EXACT: dict[str, Callable[[], Statistic]] = {
    "minmax": MinMax,
    "histogram": Histogram,
    "coarse histogram": lambda: Histogram(5),
    "channel range": lambda: ChannelRange(-1),
}
ROUNDED: dict[str, Callable[[], Statistic]] = {
    "moments": Moments,
    "channel mean": lambda: ChannelMean(-1),
    "channel squares": lambda: ChannelSquares(-1),
    "second moments": lambda: SecondMoments(Rows(-1)),
}

NUMBERS = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.floats(width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, 1e-42, -1e-42, 1e30, -1e30, -3.4028235e38, 65504.0]),
)


def data(dtype: Any = np.float32) -> st.SearchStrategy[Array]:
    return hnp.arrays(dtype, st.tuples(st.integers(1, 12), st.just(3)), elements=NUMBERS)


@st.composite
def parts(draw: st.DrawFn) -> tuple[Array, list[Array], list[int]]:
    whole = draw(data())
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = np.split(whole, cuts)
    return whole, pieces, draw(st.permutations(range(len(pieces))))


def on(make: Callable[[], Statistic], *batches: Array) -> Any:
    statistic = make()
    for batch in batches:
        statistic.update(batch)
    return statistic


def merged(make: Callable[[], Statistic], pieces: list[Array], order: list[int]) -> Any:
    """Each piece by a worker of its own; the first half of them merged first."""
    workers = [on(make, pieces[index]) for index in order]
    middle = len(workers) // 2
    first, second = make(), make()
    for worker in workers[:middle]:
        first.merge(worker)
    for worker in workers[middle:]:
        second.merge(worker)
    second.merge(first)
    return second


def states_equal(one: Any, other: Any) -> None:
    first, second = one.state(), other.state()
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=150)
@given(parts=parts())
def test_splits_and_merges_are_exact(kind: str, parts: Any) -> None:
    whole, pieces, order = parts
    expected = on(EXACT[kind], whole)
    states_equal(on(EXACT[kind], *pieces), expected)
    states_equal(merged(EXACT[kind], pieces, order), expected)


@pytest.mark.parametrize("kind", ROUNDED)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_sums_agree_up_to_rounding(kind: str, seed: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    whole = random.normal(3, 2, (30, 3))
    pieces = np.split(whole, sorted(cuts))
    expected = on(ROUNDED[kind], whole)
    order = list(random.permutation(len(pieces)))
    for found in (on(ROUNDED[kind], *pieces), merged(ROUNDED[kind], pieces, order)):
        for name, array in expected.state().items():
            np.testing.assert_allclose(found.state()[name], array, rtol=1e-12)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 9))
def test_a_moving_average_merges_in_order(seed: int, cut: int) -> None:
    batches = list(np.random.default_rng(seed).standard_normal((9, 4)))
    expected = on(MovingAverage, *batches)
    found = on(MovingAverage, *batches[:cut])
    found.merge(on(MovingAverage, *batches[cut:]))
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-12)
    assert found.batches == 9


@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED, "moving average"])
def test_what_was_seen_is_restored(kind: str) -> None:
    make = {**EXACT, **ROUNDED, "moving average": MovingAverage}[kind]
    first, second = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    twin = make()
    twin.restore(on(make, first).state())
    twin.update(second)
    states_equal(twin, on(make, first, second))
    empty = make()
    empty.restore(make().state())
    empty.update(second)
    states_equal(empty, on(make, second))


@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED, "moving average"])
@pytest.mark.parametrize("place", [0, 7, 40000])
def test_nan_is_noticed_wherever_it_stands(kind: str, place: int) -> None:
    make = {**EXACT, **ROUNDED, "moving average": MovingAverage}[kind]
    batch = np.ones((20000, 3), np.float32)
    batch.reshape(-1)[place] = np.nan
    with pytest.raises(NotANumberError):
        on(make, batch)


@pytest.mark.parametrize(
    ("dtype", "sentinels"),
    [
        (np.float32, [-3.4028235e38, np.inf, -np.inf, 2e30]),
        (np.float16, [-65504.0, 65504.0, np.inf]),
        (np.float64, [-1.7976931348623157e308, np.inf]),
    ],
)
@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED, "moving average"])
def test_sentinels_are_counted_apart(kind: str, dtype: Any, sentinels: list[float]) -> None:
    make = {**EXACT, **ROUNDED, "moving average": MovingAverage}[kind]
    plain = np.random.default_rng(1).standard_normal((6, 3)).astype(dtype)
    mixed = np.concatenate([plain, np.resize(np.array(sentinels, dtype), (2, 3))])
    zeros = np.concatenate([plain, np.zeros((2, 3), dtype)])
    found, masked = on(make, mixed), on(make, mixed).masked
    assert masked == 6
    if kind in ("channel mean", "channel squares", "second moments"):
        np.testing.assert_allclose(found.sums, on(make, zeros).sums, rtol=1e-6)
        return
    for name in ("low", "high", "mean", "count"):
        if hasattr(found, name):
            np.testing.assert_allclose(getattr(found, name), getattr(on(make, plain), name))


def test_nothing_but_sentinels_gives_no_range() -> None:
    found = on(MinMax, np.full((2, 3), -np.inf, np.float32))
    assert found.low > found.high
    assert found.masked == 6


@settings(max_examples=150)
@given(batch=data(np.float64))
def test_histograms_count_what_lies_in_their_bins(batch: Array) -> None:
    found = on(Histogram, batch)
    kept = batch[np.abs(batch) <= 1e30]
    assert found.count == kept.size
    assert found.masked == batch.size - kept.size
    first, counts = found.occupied()
    bins = np.trunc(kept / found.width).astype(np.int64)
    expected = np.bincount(bins - first, minlength=counts.size)
    np.testing.assert_array_equal(counts, expected)
    assert counts.size <= found.bins
    if kept.size and np.ptp(kept) > 1e-30:
        assert counts.size > found.bins // 2 - 2
    assert found.magnitudes().sum() == kept.size


def test_integers_are_no_sentinels() -> None:
    found = on(MinMax, np.array([-(2**62), 2**62]))
    assert (found.low, found.high, found.masked) == (-(2.0**62), 2.0**62, 0)
    found = on(Histogram, np.array([True, False]))
    assert (found.low, found.high, found.count) == (0.0, 1.0, 2)


CONVOLUTIONS = [
    Patches((3,), (1,), (1,), (1, 1)),
    Patches((3, 2), (2, 1), (1, 2), (1, 0, 0, 2)),
    Patches((3, 3), (2, 2), (1, 1), (0, 0, 0, 0), "SAME_UPPER"),
    Patches((2, 2), (3, 2), (2, 1), (0, 0, 0, 0), "SAME_LOWER", 2),
    Patches((2, 3), (1, 1), (1, 1), (0, 0, 0, 0), "VALID", 4),
    Patches((2, 1, 2), (1, 2, 1), (1, 1, 2), (1, 1, 1, 0, 0, 0)),
]


@pytest.mark.parametrize("patches", CONVOLUTIONS, ids=str)
def test_patches_are_what_onnx_multiplies_weights_with(patches: Patches) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    random = np.random.default_rng(3)
    dims = len(patches.kernel)
    x = random.standard_normal((2, 4, *(8, 7, 6)[:dims])).astype(np.float32)
    moments = on(lambda: SecondMoments(patches), x)
    features = 4 // patches.groups * int(np.prod(patches.kernel))
    assert moments.sums.shape == (patches.groups, features, features)
    padding: dict[str, Any] = (
        {"pads": patches.pads} if patches.auto_pad == "NOTSET" else {"auto_pad": patches.auto_pad}
    )
    weight = random.standard_normal((4, 4 // patches.groups, *patches.kernel)).astype(np.float32)
    node = onnx.helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=patches.strides,
        dilations=patches.dilations,
        group=patches.groups,
        kernel_shape=patches.kernel,
        **padding,
    )
    infos = [onnx.helper.make_tensor_value_info(n, 1, None) for n in ("x", "w", "y")]
    graph = onnx.helper.make_graph([node], "conv", infos[:2], infos[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    (y,) = ReferenceEvaluator(model).run(None, {"x": x, "w": weight})
    assert moments.count == y[:, 0].size
    # The sum of squares of an output channel is w^T (X^T X) w.
    for channel in range(4):
        flat = weight[channel].reshape(-1).astype(np.float64)
        sums = moments.sums[channel * patches.groups // 4]
        expected = np.square(y[:, channel], dtype=np.float64).sum()
        np.testing.assert_allclose(flat @ sums @ flat, expected, rtol=1e-4)


def test_second_moments_decline_what_is_too_large() -> None:
    with pytest.raises(ValueError, match="exceed the limit of 8 features"):
        on(lambda: SecondMoments(Rows(-1), most=8), np.ones((2, 9), np.float32))


def test_second_moments_of_any_size_are_taken_where_asked_for() -> None:
    found = on(lambda: SecondMoments(Rows(-1), most=None), np.ones((2, 4097), np.float32))
    assert (found.sums.shape, found.count) == ((1, 4097, 4097), 2)
    assert (found.sums == 2).all()


def test_second_moments_refuse_what_overflows_to_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "_BLOCK", 8)
    moments = SecondMoments(Rows(-1))
    with pytest.raises(NotANumberError), np.errstate(over="ignore", invalid="ignore"):
        moments.update(np.array([[1e25, 1e25], [1e25, -1e25]], np.float32))
    assert moments.count == 0
