"""What a rule has to know beside the node it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import integers
from graphopt.rewrite.shapes import Shapes


def place(scope: Scope, node: ir.Node) -> str:
    """Say where a node is: by its name, or by its first output's if it has none."""
    return scope.at(node.name or node.outputs[0].name)


@dataclass(frozen=True)
class Site:
    """Where a node stands.

    Args:
        shapes: Shapes, types and small contents of values.
        opset: Version of ONNX's own operator set that the node is written in.
    """

    shapes: Shapes
    opset: int


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input that a node may leave out."""
    return node.inputs[index] if index < len(node.inputs) else None


def ints_setting(node: ir.Node, attribute: str, index: int | None) -> Sequence[int] | None:
    """Return integers that are an attribute in old opsets and a constant input in newer ones.

    None where neither stands, or the input is not constant, or the attribute is a function's.
    """
    known = node.attributes.get(attribute)
    if known is not None:
        return None if known.is_ref() else tuple(known.as_ints())
    return None if index is None else integers(optional_input(node, index))


def is_given(node: ir.Node, attribute: str, index: int) -> bool:
    """Whether a setting stands at all, as an attribute or as an input."""
    return attribute in node.attributes or optional_input(node, index) is not None


def int_setting(node: ir.Node, attribute: str, default: int) -> int | None:
    """Return an integer attribute or its default; None where a function passes it in."""
    known = node.attributes.get(attribute)
    if known is None:
        return default
    return None if known.is_ref() else known.as_int()
