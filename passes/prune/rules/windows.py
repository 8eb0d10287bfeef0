"""Operators over places of an image: pools, resizing, padding, repeating."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import array, integers
from passes.prune.coupling import Kept
from passes.prune.places import Place
from passes.prune.site import Site


def pool(site: Site) -> None:
    """Let samples and channels pass."""
    if site.output(1) is not None and site.node.outputs[1].uses():
        raise site.mixed("numbers all elements")
    source, target = site.ends()
    site.join_all(source, target, frozenset(range(2, len(site.dims(source)))))


def resize(site: Site) -> None:
    """Let axes pass that Resize or Upsample leaves as they are."""
    source, target = site.ends()
    mode = site.node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_crop_and_resize":
        raise site.mixed("cuts")
    sizes = site.input(3)
    if site.node.op_type == "Resize" and sizes is not None:
        given = integers(sizes.value)
        if given is None or site.integers("axes") is not None:
            raise site.mixed("has computed sizes")
        _follow(site, target, given)
    site.join_all(source, target, _resized(site, source, target))


def _resized(site: Site, source: Place, target: Place) -> frozenset[int]:
    """Return the axes that are not known to keep their places."""
    index = {"Upsample": 1}.get(site.node.op_type, 1 if site.opset < 11 else 2)
    scales = site.input(index)
    by = None if scales is None else array(scales.value)
    pairs = list(zip(site.dims(source), site.dims(target), strict=True))
    if by is not None and by.size == len(pairs):
        return frozenset(axis for axis, factor in enumerate(by.reshape(-1)) if factor != 1)
    return frozenset(a for a, (old, new) in enumerate(pairs) if old != new or old is None)


def _follow(site: Site, target: Place, given: tuple[int, ...]) -> None:
    def adjust(kept: Kept) -> None:
        now = [kept.size(target, axis) or size for axis, size in enumerate(given)]
        site.coupling.parameters.integers(site.node, 3, now)

    site.adjust(adjust)


def pad(site: Site) -> None:
    """Let axes pass; what a constant Pad adds in front and behind can go as well."""
    source, target = site.ends()
    added = _margins(site, len(site.dims(source)))
    mode = site.node.attributes.get("mode")
    constant_mode = mode is None or mode.as_string() == "constant"
    for axis, (before, behind) in enumerate(added):
        inner, outer = site.ids(source, axis), site.ids(target, axis)
        if not before and not behind:
            site.join_ids(inner, outer)
        elif constant_mode and min(before, behind) >= 0 and inner is not None and outer is not None:
            site.join_ids(inner, outer[before : outer.size - behind])
        else:
            site.keep(source, axis)
            site.keep(target, axis)
    site.adjust(lambda kept: _narrow(site, kept, target, added))


def _margins(site: Site, rank: int) -> list[tuple[int, int]]:
    """Return what is added in front and behind, by axis."""
    amounts = site.integers("pads")
    axes: tuple[int, ...] | None = tuple(range(rank))
    if amounts is None and len(site.node.inputs) > 1:
        amounts = integers(site.node.inputs[1])
    if len(site.node.inputs) > 3 and site.node.inputs[3] is not None:
        axes = integers(site.node.inputs[3])
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        raise site.mixed("has computed pads")
    found = [(0, 0)] * rank
    for axis, *both in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        found[site.counted(axis, rank)] = (both[0], both[1])
    return found


def _narrow(site: Site, kept: Kept, target: Place, added: list[tuple[int, int]]) -> None:
    """Add only as much as is left of what was added."""
    now = []
    for axis, (before, behind) in enumerate(added):
        mask = kept.mask(target, axis)
        if mask is None or mask.all():
            now.append((before, behind))
        else:
            now.append((int(mask[:before].sum()), int(mask[mask.size - behind :].sum())))
    pads = [*(before for before, _ in now), *(behind for _, behind in now)]
    if site.node.attributes.get("pads") is not None:
        site.node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return
    site.coupling.parameters.integers(site.node, 1, pads)
    if len(site.node.inputs) > 3:
        site.node.replace_input_with(3, None)


def tile(site: Site) -> None:
    """Keep the axes that are repeated; others pass."""
    source, target = site.ends()
    repeats = integers(site.node.inputs[1])
    if repeats is None or len(repeats) != len(site.dims(source)):
        raise site.mixed("has computed repeats")
    site.join_all(source, target, frozenset(a for a, times in enumerate(repeats) if times != 1))
