"""Operands of two ranks: until opset 7 an attribute said how they lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.rewrite.opset_changes.attributes import dropped
from graphopt.rewrite.opset_changes.site import Edit, Impossible, Site, in_turn


def two_operands(site: Site) -> Edit | None:
    """Until opset 7 the second operand was laid along an axis of the first."""
    if not site.crosses(7):
        return None
    gone = dropped(site, "broadcast", "axis")
    if not site.value("broadcast", 0) or not site.has("axis"):
        return gone
    axis, ranks = site.value("axis"), (site.rank(0), site.rank(1))
    if ranks[0] is None or ranks[1] is None:
        raise Impossible("the ranks of its inputs are not known")
    missing = ranks[0] - ranks[1] - axis % ranks[0]
    if missing <= 0:
        return gone
    axes = [ranks[1] + n for n in range(missing)]
    return in_turn(gone, lambda: _lay(site, axes))


def p_relu(site: Site) -> Edit | None:
    """Until opset 7 the slope was one number, or one per channel."""
    if not site.crosses(7):
        return None
    shape, rank = site.facts.shapes.static_shape(site.node.inputs[1]), site.rank(0)
    if shape is None or rank is None:
        raise Impossible("the shapes of its inputs are not known")
    if int(np.prod(shape)) == 1 or rank <= 2:
        return None
    return lambda: _lay(site, range(1, rank - 1))


def _lay(site: Site, axes: Sequence[int]) -> None:
    """Give the second operand axes of size 1."""
    second = site.node.inputs[1]
    if site.target >= 13:
        last = site.add("Unsqueeze", [second, site.integers("axes", axes)], "laid")
    else:
        last = site.add("Unsqueeze", [second], "laid", axes=list(axes))
    site.read(1, last)
