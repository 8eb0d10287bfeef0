"""What names sizes in a model follows: bounds, shapes, axes."""

from __future__ import annotations

import pytest
from prune_runs import check, drawn, shapes


def test_bounds_keep_their_integer_type() -> None:
    model = drawn(
        """
        main (float[N,6] x) => (float[N,5] y)
        <int32[1] low = {2}, int32[1] high = {7}, int32[1] axes = {1}> {
            a = MatMul(x, w1)
            b = Slice(a, low, high, axes)
            y = MatMul(b, w2)
        }""",
        w1=(6, 10),
        w2=(5, 5),
    )
    pruned, _, _ = check(model, ratio=0.5, scope="layer")
    assert shapes(pruned)["w2"][0] < 5


def test_a_computed_shape_that_allows_zero_is_written_without() -> None:
    model = drawn(
        """
        main (float[N,3,4,4] x) => (float[N,5] y) <int64[1] first = {0}, int64[1] rest = {128}> {
            a = Conv(x, w1)
            s = Shape(x)
            n = Gather(s, first)
            sizes = Concat<axis=0>(n, rest)
            f = Reshape<allowzero=1>(a, sizes)
            y = MatMul(f, w2)
        }""",
        w1=(8, 3, 1, 1),
        w2=(128, 5),
    )
    pruned, _, _ = check(model, ratio=0.5)
    assert shapes(pruned)["w2"] == (64, 5)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_squeeze_without_axes_leaves_a_single_channel(opset: int) -> None:
    model = drawn(
        f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        main (float[2,3,4,4] x) => (float[2,5] y) {{
            a = Conv(x, w1)
            p = GlobalAveragePool(a)
            f = Squeeze(p)
            y = MatMul(f, w2)
        }}""",
        w1=(8, 3, 1, 1),
        w2=(8, 5),
    )
    pruned, _, _ = check(model, ratio=1.0)
    assert shapes(pruned)["w2"] == (1, 5)
