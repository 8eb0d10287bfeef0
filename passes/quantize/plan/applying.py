"""Passes run on a copy of a model, outside of the manager."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.model.order import restore_order
from graphopt.pipeline.contract import Context, Declined, Finding, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes

Item = Rewrite | Declined | Finding


def fresh_copy(model: ir.Model) -> ir.Model:
    """Copy a model, without what was inferred about the original: that names its values."""
    copy = snapshot(model)
    Names.forget(copy)
    Shapes.forget(copy)
    return copy


def applied(
    model: ir.Model, passes: Sequence[Pass], context: Context
) -> tuple[ir.Model, tuple[Item, ...]]:
    """Return what passes make of a copy of a model, and all that they said.

    Args:
        model: Stays as it is.
        passes: In the order in which they run.
        context: What they are given.
    """
    copy = fresh_copy(model)
    said: list[Item] = []
    for work in passes:
        for item in work.rewrites(copy, context):
            said.append(item)
            if isinstance(item, Rewrite):
                item.apply()
        restore_order(copy)
    return copy, tuple(said)
