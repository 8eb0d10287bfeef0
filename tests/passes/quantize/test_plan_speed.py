from __future__ import annotations

import itertools

import pytest

from passes.quantize.plan.speed import Paired, Speed, compared, paired


def nothing():
    return None


def given(*batches):
    """Rounds that return given ratios, one batch after the other."""
    left = iter(batches)

    def rounds(first, second, count):
        return Paired(tuple(next(left)))

    return rounds


def test_the_bounds_are_the_sign_test_s():
    found = Paired(tuple(n / 10 for n in range(1, 16)))
    assert found.median == 0.8
    assert found.bounds == (0.4, 1.2)  # 4th and 12th of 15: 96.5%
    assert Paired((0.5,)).bounds == (0.5, 0.5)


def test_is_clear_only_where_the_bounds_are():
    assert Paired((0.9,) * 15).faster
    assert Paired((1.1,) * 15).slower
    mixed = Paired((0.9,) * 8 + (1.1,) * 7)
    assert not mixed.faster
    assert not mixed.slower


def test_repeats_while_in_doubt_and_no_longer():
    doubtful, clear = [0.9, 1.1] * 7 + [0.9], [0.9] * 15
    found = paired(nothing, nothing, rounds=given(doubtful, clear, clear))
    assert found.faster
    assert len(found.ratios) == 30
    found = paired(nothing, nothing, rounds=given(clear))
    assert len(found.ratios) == 15


def test_gives_up_in_time():
    doubtful = [0.9, 1.1] * 7 + [0.9]
    found = paired(nothing, nothing, rounds=given(*itertools.repeat(doubtful, 5)))
    assert len(found.ratios) == 75
    found = paired(nothing, nothing, rounds=given(doubtful), out_of_time=lambda: True)
    assert len(found.ratios) == 15


def test_a_ratio_is_the_first_s_time_to_the_second_s():
    found = paired(
        lambda: sum(range(20000)), lambda: sum(range(200000))
    )  # an order of magnitude apart, whatever else runs
    assert found.faster


@pytest.mark.parametrize(
    ("one", "other", "never_slower", "gains"),
    [
        (0.5, 0.9, True, True),
        (0.5, 1.1, False, False),
        (1.0, 1.0, True, False),
        (1.1, 1.2, False, False),
    ],
)
def test_every_setting_counts(one, other, never_slower, gains):
    speed = Speed({"batch 1": Paired((one,) * 15), "batch 8": Paired((other,) * 15)})
    assert speed.never_slower is never_slower
    assert speed.gains is gains
    assert speed.score == pytest.approx((one * other) ** 0.5)


def test_times_every_setting():
    speed = compared(
        [nothing, nothing], [nothing, nothing], ["a", "b"], rounds=given([0.5] * 15, [0.7] * 15)
    )
    assert str(speed) == "a: 0.50x (0.50-0.50), b: 0.70x (0.70-0.70)"
