"""Numbers as people read them, in tables and in HTML."""

from __future__ import annotations

import math

_DASH = "\N{EN DASH}"
_MAGNITUDES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: int | None) -> str:
    """Write a count with thousands apart: 1,097; a dash for None."""
    return _DASH if number is None else f"{number:,}"


def short_count(number: int | None) -> str:
    """Write a count in three to four digits: 40.6 M; a dash for None."""
    if number is None:
        return _DASH
    for unit, letter in _MAGNITUDES:
        if number >= unit:
            return f"{_digits(number / unit)} {letter}"
    return str(number)


def size(nbytes: int | None) -> str:
    """Write bytes in decimal units, as disks and networks count: 1.08 MB; a dash for None."""
    if nbytes is None:
        return _DASH
    for unit, letter in _MAGNITUDES:
        if nbytes >= unit:
            return f"{_digits(nbytes / unit)} {letter}B"
    return f"{nbytes} B"


def share(part: float | None) -> str:
    """Write a share of one as percent: 49.9 %; 0 % and 100 % only where exact; a dash for None."""
    if part is None or math.isnan(part):
        return _DASH
    if part in (0, 1):
        return f"{part:.0%}".replace("%", " %")
    shown = min(max(round(100 * part, 1), 0.1), 99.9)
    return f"{shown} %"


def seconds(duration: float) -> str:
    """Write a duration: 830 ms, 4.2 s, 3 min 20 s."""
    if duration < 0.9995:
        return f"{_digits(1000 * duration)} ms"
    if duration < 60:
        return f"{_digits(duration)} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s"


def error(value: float) -> str:
    """Write an error or a ratio in three digits: 1.19e-07, 0, inf."""
    return f"{value:.3g}"


def change(before: float | None, after: float | None) -> str:
    """Write by how much a number changed: -50.0 %, or nothing where it did not or is unknown."""
    if not before or after is None or before == after:
        return ""
    return f"{100 * (after / before - 1):+.1f} %".replace("-", "\N{MINUS SIGN}")


def _digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
