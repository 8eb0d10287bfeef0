"""Operators that move elements, or leave some out, and compute none."""

from __future__ import annotations

import onnx_ir as ir

MOVERS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice"})


def maker(value: ir.Value | None) -> ir.Node | None:
    """Return what computes the elements of a value, behind operators that only move them."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in MOVERS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node
