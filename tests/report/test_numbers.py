from __future__ import annotations

import pytest

from graphopt.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.count(1234567), "1,234,567"),
        (numbers.count(None), "\N{EN DASH}"),
        (numbers.short_count(999), "999"),
        (numbers.short_count(40_551_040), "40.6 M"),
        (numbers.short_count(1_430_000_000), "1.43 G"),
        (numbers.size(0), "0 B"),
        (numbers.size(1_076_312), "1.08 MB"),
        (numbers.size(147_456), "147 kB"),
        (numbers.share(0.0), "0 %"),
        (numbers.share(1.0), "100 %"),
        (numbers.share(1e-9), "0.1 %"),
        (numbers.share(1 - 1e-9), "99.9 %"),
        (numbers.share(0.49951), "50.0 %"),
        (numbers.share(float("nan")), "\N{EN DASH}"),
        (numbers.seconds(0.0304), "30.4 ms"),
        (numbers.seconds(0.9999), "1.00 s"),
        (numbers.seconds(200), "3 min 20 s"),
        (numbers.error(1.1920929e-07), "1.19e-07"),
        (numbers.error(float("inf")), "inf"),
        (numbers.change(200, 100), "\N{MINUS SIGN}50.0 %"),
        (numbers.change(100, 150), "+50.0 %"),
        (numbers.change(5, 5), ""),
        (numbers.change(0, 5), ""),
        (numbers.change(5, None), ""),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected
