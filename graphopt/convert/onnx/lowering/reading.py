"""What the rules of lowering read of a node."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import integers as constant_integers
from graphopt.rewrite.dims import static
from graphopt.rewrite.opset_changes import Impossible, Site

MOST_INTEGERS = 4096


def crosses(site: Site, version: int) -> bool:
    """Whether what came with a version has to be said without it."""
    return site.target < version <= site.source


def input_of(site: Site, index: int) -> ir.Value | None:
    """Return an input; None where the node leaves it out."""
    return site.node.inputs[index] if index < len(site.node.inputs) else None


def integers_of(site: Site, index: int, what: str) -> tuple[int, ...] | None:
    """Read an input that was an attribute; None where the node leaves it out.

    Exporters compute such integers of constants, and `torch.onnx` reshapes axes.
    """
    value = input_of(site, index)
    if value is None:
        return None
    found = constant_integers(value, at_most=MOST_INTEGERS)
    if found is None:
        found = static(site.facts.shapes.elements(value))
    if found is None:
        raise Impossible(f"its {what} are computed, and had to be an attribute")
    return found
