"""Reshape, Flatten, Squeeze and Unsqueeze: axes become others of the same elements."""

from __future__ import annotations

import math

import onnx_ir as ir

from graphopt.rewrite.constants import integers
from graphopt.rewrite.dims import Dims
from graphopt.rewrite.scaling.lanes import last_runs
from passes.prune.coupling import Kept, Regrouping
from passes.prune.places import Place
from passes.prune.site import Site, known

_INPUTS_SINCE = 13
"""Since this opset, the axes of a Squeeze are an input."""


def regroup(site: Site) -> None:
    """Match runs of axes of the same size, from the last one.

    Two equal axes are one; an axis that joins several, or is split into several, loses slices with
    one of these, which is decided when all is known.
    """
    source, target = site.ends()
    before, after = site.dims(source), site.dims(target)
    if site.node.op_type == "Reshape":
        _name_sizes(site, source, target)
    elif site.node.op_type == "Squeeze":
        _name_axes(site, before)
    i, j = len(before), len(after)
    while i or j:
        start, end = last_runs(before[:i], after[:j])
        if start is None or end is None:
            break
        _match(site, (source, range(start, i)), (target, range(end, j)))
        i, j = start, end
    for place, rest in ((source, range(i)), (target, range(j))):
        for axis in rest:
            site.keep(place, axis, "has sizes that are not known")


def _match(site: Site, first: tuple[Place, range], second: tuple[Place, range]) -> None:
    inner = [a for a in first[1] if site.dims(first[0])[a] != 1]
    outer = [a for a in second[1] if site.dims(second[0])[a] != 1]
    if len(inner) == len(outer) == 1:
        site.join(first[0], inner[0], second[0], outer[0])
    elif len(inner) == 1 and len(outer) > 1:
        _one_of(site, (first[0], inner[0]), second[0], outer)
    elif len(outer) == 1 and len(inner) > 1:
        _one_of(site, (second[0], outer[0]), first[0], inner)
    else:
        for place, axes in ((first[0], inner), (second[0], outer)):
            for axis in axes:
                site.keep(place, axis)


def _one_of(site: Site, whole: tuple[Place, int], place: Place, axes: list[int]) -> None:
    sizes = [known(site.dims(place)[axis]) for axis in axes]
    numbers = [size for size in sizes if size is not None]
    if len(numbers) != len(sizes) or math.prod(numbers) != known(site.dims(whole[0])[whole[1]]):
        site.keep(whole[0], whole[1], "has sizes that are not known")
        for axis in axes:
            site.keep(place, axis, "has sizes that are not known")
        return
    site.coupling.regroup(Regrouping(whole, place, tuple(axes), site.at))


def _name_sizes(site: Site, source: Place, target: Place) -> None:
    """Have the shape that a Reshape reads follow the sizes.

    Raises:
        Mixed: It is computed, and what it holds cannot be written as numbers.
    """
    if len(site.node.inputs) < 2:
        raise site.mixed("has its sizes in an attribute")
    before, after = site.dims(source), site.dims(target)
    given = integers(site.node.inputs[1])
    if given is None or site.integer("allowzero", 0):
        given = _written(before, after)
    if given is None or len(given) != len(after):
        raise site.mixed("has computed sizes")

    def adjust(kept: Kept) -> None:
        # What is written holds no empty axis: each 0 is a size of the input.
        site.node.attributes.pop("allowzero", None)
        site.coupling.parameters.integers(site.node, 1, _now(kept, source, target, given))

    site.adjust(adjust)


def _name_axes(site: Site, before: Dims) -> None:
    """Have a Squeeze of all axes of size 1 name them: another may get down to that size."""
    if site.integers("axes") is not None or site.input(1) is not None:
        return
    axes = [axis for axis, size in enumerate(before) if size == 1]

    def adjust(_: Kept) -> None:
        if site.opset < _INPUTS_SINCE:
            site.node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        else:
            site.coupling.parameters.integers(site.node, 1, axes)

    site.adjust(adjust)


def _written(before: Dims, after: Dims) -> tuple[int, ...] | None:
    """Write a shape as numbers: 0 for a size of the input at the same axis, -1 for what is left."""
    numbers = [
        size
        if isinstance(size, int)
        else 0
        if size is not None and before[a : a + 1] == (size,)
        else -1
        for a, size in enumerate(after)
    ]
    return tuple(numbers) if numbers.count(-1) <= 1 and after.count(0) == 0 else None


def _now(kept: Kept, source: Place, target: Place, given: tuple[int, ...]) -> list[int]:
    numbers = []
    for axis, number in enumerate(given):
        size = kept.size(target, axis)
        if size is None or number == -1 or (number == 0 and kept.size(source, axis) == size):
            numbers.append(number)
        else:
            numbers.append(size)
    return numbers
