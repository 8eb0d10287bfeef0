"""Attributes that became inputs: constants now, which could be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.opset_changes.attributes import dropped, forget, given
from graphopt.rewrite.opset_changes.site import Edit, Impossible, Site, in_turn


@dataclass(frozen=True)
class ToInputs:
    """Integers in attributes that became inputs, lists of int64.

    Args:
        since: The version that the inputs came with.
        inputs: The index of the input for each attribute.
        required: Attributes without which the operator says nothing.
    """

    since: int
    inputs: Mapping[str, int]
    required: tuple[str, ...] = ()

    def __call__(self, site: Site) -> Edit | None:
        """Return the edit that moves them."""
        if not site.crosses(self.since):
            return None
        contents = {name: site.value(name) for name in self.inputs if site.has(name)}
        missing = [name for name in self.required if name not in contents]
        if missing:
            raise Impossible(f"it says no {' and '.join(missing)}")
        if not contents:
            return None

        def apply() -> None:
            forget(site, *contents)
            for name, content in contents.items():
                site.read(self.inputs[name], site.integers(name, content))

        return apply


def split(site: Site) -> Edit | None:
    """Sizes are an input since opset 13; equal parts have to say how many since 18."""
    sizes = ToInputs(13, {"split": 1})(site)
    even = not site.has("split", "num_outputs") and (
        len(site.node.inputs) < 2 or site.node.inputs[1] is None
    )
    if site.crosses(18) and even:
        return in_turn(sizes, given(site, num_outputs=len(site.node.outputs)))
    return sizes


def clip(site: Site) -> Edit | None:
    """Bounds are inputs since opset 11, of the type of the data."""
    if not site.crosses(11) or not site.has("min", "max"):
        return None
    low, high = site.value("min"), site.value("max")
    bounds = {
        index: _scalar(bound, site.dtype(0))
        for index, bound in ((1, low), (2, high))
        if bound is not None
    }

    def apply() -> None:
        forget(site, "min", "max")
        for index, bound in bounds.items():
            site.read(index, site.constant("low" if index == 1 else "high", bound))

    return apply


def pad(site: Site) -> Edit | None:
    """Pads and the number to fill them with are inputs since opset 11."""
    if not site.crosses(11):
        return None
    pads, filling = site.value("pads"), site.value("value", 0.0)
    if pads is None:
        raise Impossible("it says no pads")
    filled = _scalar(filling, site.dtype(0)) if filling else None

    def apply() -> None:
        forget(site, "value", "pads")
        site.read(1, site.integers("pads", pads))
        if filled is not None:
            site.read(2, site.constant("value", filled))

    return apply


def dropout(site: Site) -> Edit | None:
    """Without is_test since opset 7, its mask boolean since 10, the ratio an input since 12."""
    if site.crosses(7) and not site.value("is_test", 0):
        raise Impossible("it is in training mode")
    if site.crosses(10) and len(site.node.outputs) > 1:
        mask = site.node.outputs[1]
        if mask.uses() or mask.is_graph_output():
            raise Impossible("its mask is read, which became boolean")
    gone = dropped(site, "is_test") if site.crosses(7) else None
    if not site.crosses(12) or not site.has("ratio"):
        return gone
    ratio = np.asarray(site.value("ratio"), np.float32)

    def apply() -> None:
        del site.node.attributes["ratio"]
        site.read(1, site.constant("ratio", ratio))

    return in_turn(gone, apply)


def dft(site: Site) -> Edit | None:
    """The axis is an input since opset 20, and no longer 1 where it is left out."""
    if not site.crosses(20):
        return None
    axis = site.value("axis", 1)

    def apply() -> None:
        site.node.attributes.pop("axis", None)
        site.read(2, site.constant("axis", np.asarray(axis, np.int64)))

    return apply


def _scalar(number: float, dtype: ir.DataType) -> Array:
    """A bound beyond the type becomes its last number: it bounds as much."""
    if not dtype.is_floating_point():
        raise Impossible(f"its input is {dtype.name}")
    limit = float(dtype.max) if np.isfinite(number) else np.inf
    return np.asarray(min(max(number, -limit), limit), dtype.numpy())
