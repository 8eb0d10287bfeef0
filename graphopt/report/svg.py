"""Drawings of the HTML report, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.report.histogram import Histogram
from graphopt.report.markup import Html, element
from graphopt.report.numbers import error, share

_WIDTH, _HEIGHT = 320, 120
_BASE = _HEIGHT - 18
"""Where the bars stand; below are the numbers of the axis."""


def draw(histogram: Histogram) -> Html:
    """Draw a weight's histogram: what stayed, what became zero, and the threshold."""
    top = max(histogram.before, default=0) or 1
    parts = [
        element("path", d=_bars(histogram.before, top), class_="zeroed"),
        element("path", d=_bars(histogram.after, top), class_="kept"),
        element("line", x1=0, y1=_BASE, x2=_WIDTH, y2=_BASE, class_="axis"),
    ]
    parts.extend(_threshold(histogram))
    parts.extend(
        _label(position, text, anchor)
        for position, text, anchor in (
            (0.0, error(-histogram.limit), "start"),
            (_WIDTH / 2, "0", "middle"),
            (float(_WIDTH), error(histogram.limit), "end"),
        )
    )
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=_spoken(histogram),
    )


def _bars(counts: Sequence[int], top: int) -> Html:
    """Return the outline of all bars as one path."""
    width = _WIDTH / len(counts)
    steps = [f"M0 {_BASE}"]
    for index, count in enumerate(counts):
        height = _BASE - (_BASE - 6) * min(count / top, 1.0)
        steps.append(f"V{height:.1f}H{(index + 1) * width:.1f}")
    return Html("".join(steps) + f"V{_BASE}Z")


def _threshold(histogram: Histogram) -> list[Html]:
    threshold = histogram.threshold
    if threshold is None or not 0 < threshold <= histogram.limit:
        return []
    half = _WIDTH / 2
    offset = half * threshold / histogram.limit
    return [
        element("line", x1=f"{x:.1f}", y1=2, x2=f"{x:.1f}", y2=_BASE, class_="threshold")
        for x in (half - offset, half + offset)
    ]


def _label(x: float, text: str, anchor: str) -> Html:
    return element("text", text, x=f"{x:.0f}", y=_HEIGHT - 4, text_anchor=anchor)


def _spoken(histogram: Histogram) -> str:
    size = histogram.elements or 1
    zeroed = share((histogram.zeros_after - histogram.zeros_before) / size)
    limit = histogram.threshold
    where = "" if limit is None else f" below a threshold of {error(limit)}"
    return f"Histogram of {histogram.weight}: {zeroed} of its elements became 0{where}"
