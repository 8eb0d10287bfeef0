"""What is normalized together: Softmax and its kin, BatchNormalization, GroupNormalization."""

from __future__ import annotations

from graphopt.rewrite.opset_changes.attributes import dropped, given
from graphopt.rewrite.opset_changes.site import Edit, Impossible, Site


def softmax(site: Site) -> Edit | None:
    """Along one axis since opset 13; before, over all axes from one on."""
    if not site.crosses(13):
        return None
    axis = site.value("axis", 1)
    rank = site.rank(0)
    if axis == -1 or (rank is not None and axis % max(rank, 1) == max(rank, 1) - 1):
        return given(site, axis=-1)

    def apply() -> None:
        node = site.node
        source = node.inputs[0]
        shape = site.add("Shape", [source], "shape")
        flat = site.add("Flatten", [source], "flat", axis=axis)
        last = site.add(node.op_type, [flat], "rows", axis=-1)
        site.give_way(site.add("Reshape", [last, shape], "restored"))

    return apply


def batch_normalization(site: Site) -> Edit | None:
    """Without is_test since opset 7, without spatial since 9; a training mode came in 14."""
    if site.crosses(7) and not site.value("is_test", 0):
        raise Impossible("it is in training mode")
    if site.crosses(14) and len(site.node.outputs) > 1:
        raise Impossible("it is in training mode")
    if site.crosses(9) and site.value("spatial", 1) != 1:
        raise Impossible("it normalizes each place apart (spatial=0)")
    return dropped(site, "is_test", "spatial")


def group_normalization(site: Site) -> Edit | None:
    """Scale and shift are given per channel since opset 21; before, per group."""
    if not site.crosses(21):
        return None
    groups = site.value("num_groups")
    if not groups:
        raise Impossible("it says no number of groups")

    def apply() -> None:
        channels = site.add("Shape", [site.node.inputs[0]], "channels", start=1, end=2)
        size = site.add("Div", [channels, site.integers("groups", [groups])], "group_size")
        wide = site.add("Concat", [site.integers("one", [1]), size], "wide", axis=0)
        column, flat = site.integers("column", [-1, 1]), site.integers("flat", [-1])
        for index, what in ((1, "scale"), (2, "bias")):
            per_group = site.add("Reshape", [site.node.inputs[index], column], f"{what}_column")
            spread = site.add("Expand", [per_group, wide], f"{what}_spread")
            site.read(index, site.add("Reshape", [spread, flat], what))

    return apply
