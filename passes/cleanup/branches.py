"""If nodes whose condition is constant: the branch that runs takes the place of the If."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import constant_node, is_op, scalar
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import remove, replace
from passes.cleanup.sites import place


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per If with a constant condition; the other branch goes with the If."""
    for scope in scopes(model):
        for node in scope.graph:
            if not is_op(node, "If") or not node.inputs:
                continue
            condition = scalar(node.inputs[0])
            name = "then_branch" if condition else "else_branch"
            attribute = node.attributes.get(name)
            if condition is None or attribute is None or attribute.is_ref():
                continue
            yield Rewrite(
                place(scope, node),
                f"its condition is always {bool(condition)}",
                partial(inline_branch, scope, node, attribute.as_graph(), model),
            )


def inline_branch(scope: Scope, node: ir.Node, branch: ir.Graph, model: ir.Model) -> None:
    """Put the nodes of a branch in the place of its If."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"{node.name!r} is in no graph")
    names = Names.of(model)
    results = list(branch.outputs)
    branch.outputs.clear()
    moved = {
        value: _move_initializer(scope, node, value, names)
        for value in list(branch.initializers.values())
    }
    for inner in list(branch):
        branch.remove(inner)
        for output in inner.outputs:
            _make_unique(output, names)
        graph.insert_before(node, inner)
    for output, result in zip(node.outputs, results, strict=True):
        replace(output, moved.get(result, result))
    remove(node)


def _move_initializer(scope: Scope, node: ir.Node, value: ir.Value, names: Names) -> ir.Value:
    """Move an initializer of a branch around the If; in a function, as a Constant node."""
    outer, inner, tensor = node.graph, value.graph, value.const_value
    if outer is None or inner is None or tensor is None or value.name is None:
        raise ValueError(f"{value.name!r} is no initializer")
    inner.initializers.pop(value.name)
    _make_unique(value, names)
    if scope.function is None:
        outer.register_initializer(value)
        return value
    carrier = constant_node(value.name, tensor)
    outer.insert_before(node, carrier)
    replace(value, carrier.outputs[0])
    return carrier.outputs[0]


def _make_unique(value: ir.Value, names: Names) -> None:
    if value.name and names.is_ambiguous(value.name):
        value.name = names.fresh(value.name)
