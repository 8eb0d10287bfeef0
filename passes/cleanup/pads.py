"""Padding with zeros, done by the convolution behind it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import scalar
from passes.cleanup import merges
from passes.cleanup.axes import absolute
from passes.cleanup.merges import Merge, Merged
from passes.cleanup.sites import Site, ints_setting, is_given, optional_input


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per Pad that pads the spatial axes of a convolution with zeros."""
    yield from merges.rewrites(model, _MERGES)


def _pad_conv(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    pads, mode = _zeros(inner, site), outer.attributes.get("auto_pad")
    if pads is None or (mode is not None and (mode.is_ref() or not _is_explicit(mode, outer))):
        return None
    rank = len(pads) // 2
    starts, ends = pads[:rank], pads[rank:]
    if rank < 3 or any((*starts[:2], *ends[:2])) or min(pads) < 0:
        return None
    own = ints_setting(outer, "pads", None) if "pads" in outer.attributes else [0] * (2 * rank - 4)
    if own is None or len(own) != 2 * rank - 4:
        return None
    total = [a + b for a, b in zip(own, (*starts[2:], *ends[2:]), strict=True)]
    kept = [value for name, value in outer.attributes.items() if name not in ("pads", "auto_pad")]
    inputs = [inner.inputs[0], *outer.inputs[1:]]
    return Merged(outer.op_type, inputs, [*kept, ir.AttrInt64s("pads", total)])


def _is_explicit(mode: ir.Attr, node: ir.Node) -> bool:
    name = mode.as_string()
    return name == "NOTSET" or (name == "VALID" and "pads" not in node.attributes)


def _zeros(node: ir.Node, site: Site) -> tuple[int, ...] | None:
    """Return what a Pad adds before and behind each axis; None if it adds no zeros."""
    mode, value = node.attributes.get("mode"), node.attributes.get("value")
    if mode is not None and (mode.is_ref() or mode.as_string() != "constant"):
        return None
    if value is not None and (value.is_ref() or value.as_float() != 0):
        return None
    fill = optional_input(node, 2)
    if fill is not None and scalar(fill) != 0:
        return None
    pads, rank = ints_setting(node, "pads", 1), site.shapes.rank(node.inputs[0])
    if pads is None or not is_given(node, "axes", 3):
        return None if pads is None else tuple(pads)
    axes = absolute(ints_setting(node, "axes", 3), rank)
    if axes is None or rank is None or len(pads) != 2 * len(axes):
        return None
    whole = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        whole[axis], whole[axis + rank] = pads[index], pads[index + len(axes)]
    return tuple(whole)


_MERGES: dict[tuple[str, str], Merge] = {("Pad", "Conv"): _pad_conv}
