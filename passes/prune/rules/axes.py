"""Operators that move, join, cut or reduce axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import integers
from passes.prune.coupling import Kept
from passes.prune.places import Place
from passes.prune.site import Site

_INPUTS_SINCE = 13
"""Since this opset, the sizes of a Split are an input."""


def transpose(site: Site) -> None:
    """Join each axis with the place it moves to."""
    source, target = site.ends()
    rank = len(site.dims(source))
    order = site.integers("perm") or tuple(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise site.mixed("has an input of another rank")
    for axis, origin in enumerate(order):
        site.join(source, origin, target, axis)


def concat(site: Site) -> None:
    """Lay the slices of operands behind each other."""
    target = site.output(0)
    operands = [site.input(index) for index in range(len(site.node.inputs))]
    pieces = [place for place in operands if place is not None]
    if target is None or not pieces:
        raise site.mixed("has no output")
    axis = site.axis("axis", target, 1)
    _elsewhere(site, target, pieces, axis)
    _joined(site, target, pieces, axis)


def _joined(site: Site, whole: Place, pieces: Sequence[Place], axis: int) -> None:
    """Join the slices of pieces with those of the whole, in order."""
    ids = site.ids(whole, axis)
    sizes = [site.dims(piece)[axis] for piece in pieces]
    known = [size for size in sizes if isinstance(size, int)]
    if ids is None or len(known) != len(sizes) or sum(known) != ids.size:
        for place in (whole, *pieces):
            site.keep(place, axis, "has sizes that are not known")
        return
    ends = np.cumsum(known)
    for piece, start, end in zip(pieces, [0, *ends], ends, strict=False):
        if end - start == 1:
            site.join_ids(ids[start:end], None)
        elif end > start:
            site.join_ids(site.ids(piece, axis), ids[start:end])


def _elsewhere(site: Site, whole: Place, pieces: Sequence[Place], axis: int) -> None:
    for piece in pieces:
        if len(site.dims(piece)) != len(site.dims(whole)):
            raise site.mixed("has tensors of different ranks")
        for other in range(len(site.dims(whole))):
            if other != axis:
                site.join(piece, other, whole, other)


def split(site: Site) -> None:
    """Give each piece its own slices."""
    source = site.ends()[0]
    axis = site.axis("axis", source, 0)
    pieces = [Place(output) for output in site.node.outputs]
    _elsewhere(site, source, pieces, axis)
    sizes = site.input(1)
    if sizes is not None and integers(sizes.value) is None:
        raise site.mixed("has computed sizes")
    _joined(site, source, pieces, axis)

    def adjust(kept: Kept) -> None:
        mask = kept.mask(source, axis)
        if mask is not None and not mask.all():
            _set_sizes(site, [kept.size(piece, axis) or 0 for piece in pieces])

    site.adjust(adjust)


def _set_sizes(site: Site, sizes: list[int]) -> None:
    if site.opset < _INPUTS_SINCE:
        site.node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    site.node.attributes.pop("num_outputs", None)
    site.coupling.parameters.integers(site.node, 1, sizes)


def cut_out(site: Site) -> None:
    """Join the slices of a Slice with those that it reads."""
    source, target = site.ends()
    rank = len(site.dims(source))
    given = _bounds(site, rank)
    cut = set(given)
    for axis in range(rank):
        if axis not in cut:
            site.join(source, axis, target, axis)
    if site.integers("starts") is not None:
        for axis in cut:
            site.keep(source, axis)
            site.keep(target, axis)
        return
    for axis in cut:
        start, end = given[axis]
        ids = site.ids(source, axis)
        piece = None if ids is None or start is None else ids[start:end]
        if ids is None or piece is None or piece.size < 2:
            site.join_ids(ids, None)
            site.join_ids(None, site.ids(target, axis))
        else:
            site.join_ids(piece, site.ids(target, axis))
    slices = _slices(site)
    site.adjust(lambda kept: _move_bounds(site, kept, source, slices))


def _bounds(site: Site, rank: int) -> dict[int, tuple[int | None, int | None]]:
    """Return start and end by axis; a start of None where a Slice jumps."""
    starts, ends, axes, steps = _slices(site)
    found: dict[int, tuple[int | None, int | None]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found[site.counted(axis, rank)] = (start, end) if step == 1 else (None, None)
    return found


def _slices(site: Site) -> tuple[Sequence[int], ...]:
    starts, ends = site.integers("starts"), site.integers("ends")
    axes, steps = site.integers("axes"), None
    if starts is None:
        inputs = [*site.node.inputs, None, None, None]
        starts, ends = integers(inputs[1]), integers(inputs[2])
        axes, steps = integers(inputs[3]), integers(inputs[4])
        if (inputs[3] is not None and axes is None) or (inputs[4] is not None and steps is None):
            raise site.mixed("has computed axes or steps")
    if starts is None or ends is None:
        raise site.mixed("has computed bounds")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise site.mixed("has bounds that do not fit each other")
    return starts, ends, axes, steps


def _move_bounds(site: Site, kept: Kept, source: Place, slices: tuple[Sequence[int], ...]) -> None:
    starts, ends = list(slices[0]), list(slices[1])
    for place, (axis, step) in enumerate(zip(*slices[2:], strict=True)):
        mask = kept.mask(source, site.counted(axis, len(site.dims(source))))
        if mask is not None and step == 1 and not mask.all():
            low, high, _ = slice(starts[place], ends[place]).indices(mask.size)
            starts[place] = int(mask[:low].sum())
            ends[place] = int(mask[:high].sum())
    site.coupling.parameters.integers(site.node, 1, starts)
    site.coupling.parameters.integers(site.node, 2, ends)


def gather(site: Site) -> None:
    """Rows are picked by number and stay; all other axes pass."""
    source, target = site.ends()
    picked = site.input(1)
    if picked is None:
        raise site.mixed("leaves out an operand")
    rank, more = len(site.dims(source)), len(site.dims(picked))
    axis = site.axis("axis", source, 0)
    site.keep(source, axis, "picks from them")
    for other in range(rank):
        if other != axis:
            site.join(source, other, target, other if other < axis else other + more - 1)
    for other in range(more):
        site.join(picked, other, target, axis + other)


def reduced(site: Site) -> None:
    """Keep the axes that are reduced; others pass."""
    source, target = site.ends()
    rank = len(site.dims(source))
    axes = site.integers("axes")
    if axes is None and len(site.node.inputs) > 1 and site.node.inputs[1] is not None:
        axes = integers(site.node.inputs[1])
        if axes is None:
            raise site.mixed("reduces computed axes")
    if not axes:
        axes = () if site.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    _without(site, source, target, {site.counted(axis, rank) for axis in axes})


def chosen(site: Site) -> None:
    """Keep the axis along which an ArgMax or ArgMin looks."""
    source, target = site.ends()
    _without(site, source, target, {site.axis("axis", source, 0)})


def _without(site: Site, source: Place, target: Place, gone: set[int]) -> None:
    keeps = bool(site.integer("keepdims", 1))
    at = 0
    for axis in range(len(site.dims(source))):
        if axis in gone:
            site.keep(source, axis)
        else:
            site.join(source, axis, target, at)
        at += int(keeps or axis not in gone)


def largest(site: Site) -> None:
    """Keep the axis that a TopK ranks."""
    source = site.ends()[0]
    axis = site.axis("axis", source, -1)
    for index in (0, 1):
        target = site.output(index)
        if target is not None:
            site.join_all(source, target, frozenset({axis}))


def shape(site: Site) -> None:
    """Keep the axes whose sizes are read."""
    source, target = site.ends()
    rank = len(site.dims(source))
    start, end, _ = slice(site.integer("start", 0), site.integer("end", rank)).indices(rank)
    read = range(start, end) if target.value.is_graph_output() else set[int]()
    for node, index in target.value.uses():
        if node.op_type != "Gather" or node.domain or index != 0:
            read = range(start, end)
            break
        numbers = integers(node.inputs[1])
        if numbers is None:
            read = range(start, end)
            break
        read = {*read, *(range(start, end)[number] for number in numbers)}
    for axis in read:
        site.keep(source, axis, "reads their number")


def nothing(site: Site) -> None:
    """A Constant: what reads it says what its slices are."""
