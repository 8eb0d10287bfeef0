"""How scaled channels pass a Pad."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.rewrite.constants import integers, scalar
from graphopt.rewrite.scaling.axes import within
from graphopt.rewrite.scaling.lanes import Lane, lane, varies
from graphopt.rewrite.scaling.visit import Visit, rank_of, same


def pad(visit: Visit) -> None:
    """Zeros stay zeros; where they stand among channels, they belong to none."""
    if visit.index not in (None, 0):
        raise visit.refuse("reads it as a parameter")
    mode = visit.node.attributes.get("mode")
    is_constant = mode is None or (not mode.is_ref() and mode.as_string() == "constant")
    if is_constant and _fill(visit) != 0:
        raise visit.refuse("fills in a constant")
    among = [one for one in _margins(visit) if varies(visit.lane, one.from_end)]
    if not among:
        same(visit)
        return
    if not is_constant or any(min(one.before, one.behind) < 0 for one in among):
        raise visit.refuse("pads channels with channels")
    if visit.index is None:
        visit.walk.spread(visit.node.inputs[0], _inside(visit.lane, among))
        return
    outer = visit.walk.lane(visit.node.outputs[0])
    # Zeros may belong to any channel: those that were found behind the Pad stay what they are.
    if outer is not None and np.array_equal(lane(_inside(outer, among)), visit.lane):
        return
    outer = visit.lane
    for one in among:
        size = outer.shape[outer.ndim - one.from_end]
        outer = within(outer, one.from_end, one.before, one.before + size + one.behind)
    visit.walk.spread(visit.node.outputs[0], outer)


@dataclass(frozen=True)
class _Margin:
    """What is added in front and behind along an axis, counted from the end."""

    from_end: int
    before: int
    behind: int


def _inside(outer: Lane, margins: list[_Margin]) -> Lane:
    """Return what a Pad was given of a lane behind it."""
    for one in margins:
        at = outer.ndim - one.from_end
        outer = outer.take(range(one.before, outer.shape[at] - one.behind), axis=at)
    return outer


def _fill(visit: Visit) -> float:
    given, known = visit.input(2), visit.node.attributes.get("value")
    if given is not None:
        found = scalar(given)
        return np.nan if found is None else float(found)
    return 0.0 if known is None or known.is_ref() else known.as_float()


def _margins(visit: Visit) -> list[_Margin]:
    known = visit.node.attributes.get("pads")
    pads = integers(visit.input(1)) if known is None else tuple(known.as_ints())
    if pads is None:
        raise visit.refuse("has computed pads")
    rank, count = rank_of(visit), len(pads) // 2
    axes = tuple(range(count)) if visit.input(3) is None else integers(visit.input(3))
    if axes is None or len(axes) != count:
        raise visit.refuse("has computed axes")
    margins = zip(axes, pads[:count], pads[count:], strict=True)
    return [
        _Margin(rank - axis % rank, before, behind)
        for axis, before, behind in margins
        if before or behind
    ]
