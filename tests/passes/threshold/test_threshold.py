from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threshold_runs import contents, dense, normal, run

from graphopt.errors import GraphoptError
from passes.threshold import Threshold


def test_global_magnitude_is_a_sort_of_everything() -> None:
    before = [normal(7, 9), np.round(normal(5, 6, seed=1), 1), normal(3, 4, 2, 2, seed=2)]
    model = dense(*before)
    rewrites, _ = run(model, sparsity=0.37, score="magnitude")
    together = np.concatenate([array.ravel() for array in before])
    order = np.argsort(np.abs(together), kind="stable")
    together[order[: round(0.37 * together.size)]] = 0
    after = np.concatenate([array.ravel() for array in contents(model)])
    np.testing.assert_array_equal(after, together)
    assert not np.signbit(after[order[: round(0.37 * together.size)]]).any()
    assert [rewrite.at for rewrite in rewrites] == ["w0", "w1", "w2"]
    zeroed = np.count_nonzero(contents(model)[0] == 0)
    assert f"-> {zeroed} of 63 zeroed (magnitude, global)" in rewrites[0].why
    assert rewrites[0].details["elements"] == 63
    assert rewrites[0].details["sparsity"] == zeroed / 63


@pytest.mark.parametrize(
    "score", ["magnitude", "layer_normalized", "channel_normalized", "lamp", "balanced_lamp", None]
)
@pytest.mark.parametrize("scope", ["global", "layer", "channel"])
def test_every_score_zeroes_exactly_what_was_asked(score: Any, scope: Any) -> None:
    model = dense(normal(16, 8), 100 * normal(8, 24, seed=1), np.ones((8, 8), np.float32))
    run(model, sparsity=0.25, score=score, scope=scope)
    counts = [int(np.count_nonzero(array == 0)) for array in contents(model)]
    assert sum(counts) == (128 + 192 + 64) // 4
    if scope != "global":
        assert counts == [32, 48, 16]
    if scope == "channel":
        assert {int(n) for n in (contents(model)[0] == 0).sum(axis=0)} == {4}


def test_scores_by_their_formulas() -> None:
    weight = normal(6, 5)
    magnitudes = np.abs(weight.astype(np.float64))
    channel = np.sqrt((magnitudes**2).sum(axis=0))
    squares = magnitudes**2 / np.sqrt((magnitudes**2).mean(axis=0))
    tails = np.array([[squares[squares >= s].sum() for s in row] for row in squares])
    expected = {
        "layer_normalized": magnitudes / np.linalg.norm(magnitudes),
        "channel_normalized": magnitudes / channel,
        "balanced_lamp": squares / tails,
    }
    for score, values in expected.items():
        model = dense(weight)
        run(model, sparsity=0.4, score=score)
        gone = np.sort(np.argsort(values.ravel())[:12])
        np.testing.assert_array_equal(np.flatnonzero(contents(model)[0] == 0), gone)


def test_folded_scales_do_not_decide_the_default() -> None:
    # The same network twice: a layer's channels scaled up, the next one's inputs scaled down.
    first, second = normal(32, 16), normal(16, 8, seed=1)
    scale = np.exp(2 * normal(16, seed=2))
    plain, scaled = dense(first, second), dense(first * scale, second / scale[:, None])
    kept = {}
    for score in ("magnitude", None):
        for name, model in (("plain", plain.clone()), ("scaled", scaled.clone())):
            run(model, sparsity=0.5, score=score)
            kept[score, name] = contents(model)[0] != 0
    agreement = {
        score: np.mean(kept[score, "plain"] == kept[score, "scaled"])
        for score in ("magnitude", None)
    }
    assert agreement[None] > agreement["magnitude"]


def test_zeros_count_and_nothing_to_do_yields_nothing() -> None:
    weight = normal(10, 10)
    weight.ravel()[::2] = 0
    model = dense(weight)
    assert run(model, sparsity=0.5) == ([], {})
    assert run(model, sparsity=0.0) == ([], {})
    assert run(model, value=0.0) == ([], {})
    run(model, sparsity=0.75)
    assert np.count_nonzero(contents(model)[0] == 0) == 75
    run(model, sparsity=1.0)
    assert not contents(model)[0].any()
    assert run(model, sparsity=1.0) == ([], {})


def test_a_value_at_the_threshold_stays() -> None:
    weight = np.array([[0.1, -0.1], [0.099, -0.2]], np.float32)
    model = dense(weight)
    run(model, value=0.1)
    np.testing.assert_array_equal(contents(model)[0], np.float32([[0.1, -0.1], [0, -0.2]]))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_standard_deviations(scope: Any) -> None:
    arrays = [normal(20, 20) + 3, 10 * normal(20, 20, seed=1)]
    model = dense(*arrays)
    run(model, std=0.7, scope=scope)
    together = np.std(np.concatenate(arrays).astype(np.float64))
    for before, after in zip(arrays, contents(model), strict=True):
        deviation = together if scope == "global" else np.std(before.astype(np.float64))
        np.testing.assert_array_equal(after, np.where(np.abs(before) < 0.7 * deviation, 0, before))


def test_two_of_four_along_the_input_channels() -> None:
    matrix, kernel = normal(10, 4), normal(3, 6, 2, 2)
    model = dense(matrix)
    run(model, pattern="2:4")
    zeros = (contents(model)[0] == 0).astype(int)
    assert (zeros[:4].sum(axis=0) == 2).all()
    assert (zeros[4:8].sum(axis=0) == 2).all()
    assert (zeros[8:].sum(axis=0) == 0).all()
    model = dense(kernel, op="Conv")
    run(model, pattern="2:4")
    zeros = (contents(model)[0] == 0).astype(int)
    assert (zeros[:, :4].sum(axis=1) == 2).all()
    assert (zeros[:, 4:].sum(axis=1) == 0).all()
    depthwise = dense(normal(8, 1, 3, 3), op="Conv")
    assert run(depthwise, pattern="2:4") == ([], {})


def test_blocks_stay_or_go_as_one() -> None:
    kernel = normal(5, 3, 2, 2)
    model = dense(kernel, op="Conv")
    run(model, sparsity=0.4, block=(1, 4), score="magnitude")
    norms = np.sqrt((kernel**2).mean(axis=(2, 3)))
    gone = np.sort(np.argsort(norms.ravel())[:6])
    after = contents(model)[0].reshape(15, 4)
    np.testing.assert_array_equal(np.flatnonzero((after == 0).all(axis=1)), gone)
    assert (after[np.setdiff1d(np.arange(15), gone)] != 0).all()
    model = dense(normal(7, 5))  # (inputs, outputs): blocks of 2 outputs by 3 inputs, cut at edges
    run(model, sparsity=0.5, block=(2, 3))
    zeros = contents(model)[0] == 0
    blocks = [zeros[i : i + 3, o : o + 2] for o in range(0, 5, 2) for i in range(0, 7, 3)]
    assert all(block.all() or not block.any() for block in blocks)
    assert sum(bool(block.all()) for block in blocks) == round(0.5 * 9)


@pytest.mark.parametrize(
    "parameters", [{"sparsity": 0.5}, {"value": 0.1}, {"pattern": "2:4"}, {"std": 1.0}]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named(parameters: dict[str, Any], bad: float) -> None:
    weight = normal(8, 8)
    weight[3, 3] = bad
    with pytest.raises(GraphoptError, match="weight 'w1' holds NaN or infinity"):
        run(dense(normal(8, 8), weight), **parameters)


def test_extreme_norms_keep_scores_finite() -> None:
    tiny, huge = normal(8, 8) * np.float32(1e-42), normal(8, 8, seed=1) * np.float32(1e37)
    model = dense(tiny, huge, np.zeros((8, 8), np.float32))
    run(model, sparsity=0.5, score="channel_normalized")
    assert sum(int(np.count_nonzero(array == 0)) for array in contents(model)) >= 96
    assert all(np.isfinite(array).all() for array in contents(model))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "exactly one of value, sparsity, std, pattern, not none"),
        ({"value": 1.0, "sparsity": 0.5}, "not value and sparsity"),
        ({"sparsity": 1.5}, "sparsity must be from 0 to 1, not 1.5"),
        ({"sparsity": float("nan")}, "sparsity must be"),
        ({"value": -1.0}, "value must be a finite number from 0, not -1.0"),
        ({"std": float("inf")}, "std must be"),
        ({"pattern": "4:2"}, "pattern must be N:M with 1 <= N < M, not '4:2'"),
        ({"pattern": "2"}, "pattern must be"),
        ({"sparsity": 0.5, "block": (0, 1)}, "block must be two sizes"),
        ({"sparsity": 0.5, "scope": "world"}, "scope must be one of global, layer, channel"),
        ({"sparsity": 0.5, "score": "size"}, "score must be one of magnitude"),
        ({"value": 0.5, "scope": "layer"}, "scope does not go with value"),
        ({"value": 0.5, "score": "lamp"}, "score 'lamp' only goes with sparsity"),
        ({"std": 0.5, "scope": "channel"}, "scope must be global or layer with std"),
        ({"std": 0.5, "score": "wanda"}, "score must be magnitude with std"),
        ({"pattern": "2:4", "block": (1, 4)}, "block does not go with pattern"),
        ({"sparsity": 0.5, "scope": "channel", "block": (1, 4)}, "block does not go with scope"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        Threshold(**parameters)


def test_a_glob_that_lets_no_weight_in_is_told() -> None:
    rewrites, declined = run(dense(np.ones((2, 2), np.float32)), sparsity=0.5, include="conv*")
    assert rewrites == []
    assert "no weight" in declined["conv*"]
