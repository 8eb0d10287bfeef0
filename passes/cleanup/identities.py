"""Nodes that return one of their inputs as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import is_op, opset
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import can_replace, is_unused, remove, replace
from passes.cleanup import elementwise_identities, layout_identities
from passes.cleanup.sites import Site, place


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per node without effect: its readers read the input instead.

    A node whose output is a graph output goes where the producer of its input can take over the
    name; otherwise (an input or initializer that is returned, a value returned twice) it stays.
    """
    shapes = Shapes.of(model)
    if shapes.failure is not None:
        yield Declined("shapes", f"shape inference failed: {shapes.failure}")
    for scope in scopes(model):
        site = Site(shapes, opset(model, scope.function))
        for node in scope.graph:
            yield from _bypass(scope, node, site)


def _bypass(scope: Scope, node: ir.Node, site: Site) -> Iterator[Rewrite]:
    check = CHECKS.get(node.op_type)
    if check is None or not is_op(node, node.op_type) or not node.inputs or not node.outputs:
        return
    if not all(is_unused(output) for output in node.outputs[1:]):
        return
    source = check(node, site)
    if source is not None and can_replace(node.outputs[0], source):
        why = f"{node.op_type} returns {source.name} unchanged"
        yield Rewrite(place(scope, node), why, partial(_forward, node, source))


def _forward(node: ir.Node, source: ir.Value) -> None:
    replace(node.outputs[0], source)
    remove(node)


CHECKS: dict[str, Callable[[ir.Node, Site], ir.Value | None]] = {
    **elementwise_identities.CHECKS,
    **layout_identities.CHECKS,
}
"""By operator: returns the value that the first output of a node equals, where it does."""
