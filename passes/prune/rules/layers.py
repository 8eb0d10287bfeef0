"""Layers: what sums over slices lets them go with the weights that they are multiplied with."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant
from passes.prune.coupling import Kept
from passes.prune.places import Ids, Place
from passes.prune.rules.elementwise import align, elementwise_ids
from passes.prune.site import Site


def conv(site: Site) -> None:
    """Couple X (N, C, ...), W (M, C / groups, ...), B (M) and Y (N, M, ...)."""
    source, target = site.ends()
    weight = given(site, 1)
    _spatial(site, source, target, weight)
    groups = _groups(site, weight)
    site.join(weight, 0, target, 1)
    elementwise_ids(site, site.input(2), site.ids(target, 1))
    if site.node.op_type == "FusedConv" and site.input(3) is not None:
        site.join_all(given(site, 3), target)
    if groups == 1:
        site.join(source, 1, weight, 1)
    elif site.dims(weight)[1] == 1:
        _depthwise(site, source, target, groups)
    else:
        _grouped(site, (source, target), weight, groups, inside=source)


def conv_transpose(site: Site) -> None:
    """Couple X (N, C, ...), W (C, M / groups, ...), B (M) and Y (N, M, ...)."""
    source, target = site.ends()
    weight = given(site, 1)
    _spatial(site, source, target, weight)
    groups = _groups(site, weight)
    site.join(weight, 0, source, 1)
    elementwise_ids(site, site.input(2), site.ids(target, 1))
    if groups == 1:
        site.join(weight, 1, target, 1)
    elif site.dims(weight)[0] == groups:
        site.keep(weight, 1)
        _depthwise(site, source, target, groups)
    else:
        _grouped(site, (source, target), weight, groups, inside=target)


def _groups(site: Site, weight: Place) -> int:
    """Return the number of groups.

    Raises:
        Mixed: They do not fit the sizes of the tensors.
    """
    groups = max(1, site.integer("group", 1))
    shapes = [site.dims(place) for place in (weight, *site.ends())]
    if len(shapes[0]) < 3 or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise site.mixed("has tensors of different ranks")
    counts = [shapes[0][0], *(shape[1] for shape in shapes[1:])]
    if any(isinstance(count, int) and count % groups for count in counts):
        raise site.mixed("has channels that its groups do not divide")
    return groups


def _depthwise(site: Site, source: Place, target: Place, groups: int) -> None:
    """One input channel a group: a whole group goes at a time."""
    inner, outer = site.ids(source, 1), site.ids(target, 1)
    if inner is None or outer is None:
        site.join_ids(inner, None)
        site.join_ids(None, outer)
        return
    site.join_ids(np.repeat(inner, outer.size // groups), outer)

    def adjust(kept: Kept) -> None:
        site.node.attributes["group"] = ir.AttrInt64("group", kept.size(source, 1) or groups)

    site.adjust(adjust)


def _grouped(
    site: Site, ends: tuple[Place, Place], weight: Place, groups: int, *, inside: Place
) -> None:
    """All groups lose the same number; each its own channels where the weight can follow."""
    site.join_ids(_channels(site, weight, groups), site.ids(inside, 1))
    for end in ends:
        ids = site.ids(end, 1)
        if ids is not None:
            site.coupling.runs.append(ids.reshape(groups, -1))


def _channels(site: Site, weight: Place, groups: int) -> Ids | None:
    """Return slices of axis 1 of a weight, as many as there are channels in all groups."""
    if constant(weight.value) is not None and len(weight.value.uses()) == 1:
        site.coupling.places.cut_in_groups(weight, groups)
        return site.ids(weight, 1)
    own = site.ids(weight, 1)
    return None if own is None else np.tile(own, groups)


def _spatial(site: Site, source: Place, target: Place, weight: Place) -> None:
    site.join(source, 0, target, 0)
    for place in (source, target, weight):
        for axis in range(2, len(site.dims(place))):
            site.keep(place, axis)


def given(site: Site, index: int) -> Place:
    """Return an input that the node needs.

    Raises:
        Mixed: It is left out.
    """
    place = site.input(index)
    if place is None:
        raise site.mixed("leaves out an operand")
    return place


def gemm(site: Site) -> None:
    """Couple A (M, K), B (K, N), C and Y (M, N); either of A and B may be transposed."""
    left, right, target = given(site, 0), given(site, 1), site.ends()[1]
    if any(len(site.dims(place)) != 2 for place in (left, right, target)):
        raise site.mixed("has operands that are no matrices")
    across, down = bool(site.integer("transA", 0)), bool(site.integer("transB", 0))
    site.join(left, int(across), target, 0)
    site.join(left, int(not across), right, int(down))
    site.join(right, int(not down), target, 1)
    added = site.input(2)
    if added is not None:
        align(site, added, target)


def matmul(site: Site) -> None:
    """Couple A (..., M, K), B (..., K, N) and Y (..., M, N)."""
    if site.integer("transBatchA", 0) or site.integer("transBatchB", 0):
        raise site.mixed("transposes a batch")
    left, right, target = given(site, 0), given(site, 1), site.ends()[1]
    ranks = len(site.dims(left)), len(site.dims(right))
    if not min(ranks):
        raise site.mixed("has an operand without axes")
    last = len(site.dims(target)) - 1
    summed = (
        _summed(ranks[0], last=not site.integer("transA", 0)),
        _summed(ranks[1], last=bool(site.integer("transB", 0))),
    )
    site.join(left, summed[0], right, summed[1])
    if ranks[1] > 1:
        site.join(right, 2 * ranks[1] - 3 - summed[1], target, last)
    if ranks[0] > 1:
        row = last - 1 if ranks[1] > 1 else last
        site.join(left, 2 * ranks[0] - 3 - summed[0], target, row)
    if min(ranks) > 1:
        for operand in (left, right):
            _batch(site, operand, target)
    else:
        for operand in (left, right):
            for axis in range(len(site.dims(operand)) - 2):
                site.join(operand, axis, target, axis)


def _summed(rank: int, *, last: bool) -> int:
    """Return the axis that is summed over."""
    return rank - 1 if last or rank == 1 else rank - 2


def _batch(site: Site, operand: Place, target: Place) -> None:
    align(site, operand, target, behind=2)
    if constant(operand.value) is not None:
        for axis in range(len(site.dims(operand)) - 2):
            site.keep(operand, axis, "has a weight for each")


def recurrent(site: Site) -> None:
    """Couple X (T, N, C) and W (directions, gates * H, C); the states stay."""
    source, weight = given(site, 0), given(site, 1)
    site.join(source, 2, weight, 2)
    for place, axes in ((source, (0, 1)), (weight, (0, 1))):
        for axis in axes:
            site.keep(place, axis)
    rest = [site.input(index) for index in range(2, len(site.node.inputs))]
    rest += [site.output(index) for index in range(len(site.node.outputs))]
    for other in rest:
        if other is not None:
            site.keep(other, why="keeps a state of them")
