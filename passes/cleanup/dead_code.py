"""Nodes whose outputs nobody reads, and initializers without a reader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.uses import is_unused, remove
from passes.cleanup.sites import place


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one removal per dead node, last node first, then one per unread initializer.

    A removal takes along what only the dead node has read. A node in the body of a dead If or Loop
    goes with its owner.
    """
    for scope in list(scopes(model)):
        for node in reversed(scope.graph):
            if node.graph is not None and all(is_unused(output) for output in node.outputs):
                yield Rewrite(place(scope, node), "nobody reads its outputs", partial(remove, node))
    for scope in scopes(model):
        yield from _unread_initializers(scope)


def _unread_initializers(scope: Scope) -> Iterator[Rewrite]:
    initializers = scope.graph.initializers
    for name, value in list(initializers.items()):
        if is_unused(value) and not value.is_graph_input():
            drop = partial(initializers.__delitem__, name)
            yield Rewrite(scope.at(name), "nobody reads it", drop)
