"""Split in older opsets."""

from __future__ import annotations

from itertools import pairwise

import onnx_ir as ir

from graphopt.convert.onnx.lowering.reading import crosses, integers_of
from graphopt.rewrite.opset_changes import Edit, Impossible, Site
from graphopt.rewrite.opset_changes.attributes import forget, given


def split(site: Site) -> Edit | None:
    """Sizes were an attribute until opset 13; unequal parts of a number of them since 18."""
    parts = len(site.node.outputs)
    sizes = integers_of(site, 1, "sizes") if crosses(site, 13) else None
    uneven: list[int] | None = None
    if crosses(site, 18) and site.has("num_outputs"):
        shape = site.facts.shapes.shape(site.node.inputs[0])
        size = None if shape is None else shape[site.value("axis", 0)]
        if not isinstance(size, int):
            return _by_size(site)
        if size % parts:
            part = -(-size // parts)
            uneven = [part] * (parts - 1) + [size - part * (parts - 1)]

    def apply() -> None:
        if site.target < 18:
            forget(site, "num_outputs")
        if uneven is not None and site.target >= 13:
            site.read(1, site.integers("split", uneven))
        if site.target < 13 and (sizes or uneven):
            site.node.resize_inputs(1)
            given(site, split=list(sizes or uneven or ()))()

    return apply


def _by_size(site: Site) -> Edit:
    """Compute the parts of a size that is not known: all but the last are ceil(size / parts)."""
    node, parts, axis = site.node, len(site.node.outputs), site.value("axis", 0)
    if site.target < 10 or (site.target < 11 and axis < 0):
        raise Impossible("whether its parts are equal is not known")

    def apply() -> None:
        x = node.inputs[0]
        place = site.integers("axis", [axis])
        size = site.add("Gather", [site.add("Shape", [x], "shape"), place], "size", axis=0)
        more = site.add("Add", [size, site.integers("less", [parts - 1])], "more")
        part = site.add("Div", [more, site.integers("parts", [parts])], "part")
        if site.target >= 13:
            forget(site, "num_outputs")
            before = site.add("Mul", [part, site.integers("others", [parts - 1])], "before")
            last = site.add("Sub", [size, before], "last")
            every = site.add("Concat", [*[part] * (parts - 1), last], "sizes", axis=0)
            site.read(1, every)
            return
        starts = [
            site.add("Mul", [part, site.integers(f"index_{at}", [at])], f"start_{at}")
            for at in range(parts + 1)
        ]
        site.give_way(
            *(
                _part(site, [x, start, end, place], at)
                for at, (start, end) in enumerate(pairwise(starts))
            )
        )

    return apply


def _part(site: Site, inputs: list[ir.Value | None], at: int) -> ir.Value:
    """Slice; the last part ends with the array."""
    found, old = site.add("Slice", inputs, f"part_{at}"), site.node.outputs[at]
    site.facts.types.learn(found, site.facts.types(old))
    site.facts.shapes.learn(found, old)
    return found
