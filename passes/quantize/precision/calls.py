"""Who calls a function."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes


def calls_of(model: ir.Model, function: ir.Function) -> list[tuple[ir.Node, Scope]]:
    """Return the nodes that call a function."""
    return [
        (node, scope)
        for scope in scopes(model)
        for node in scope.graph
        if node.op_identifier() == function.identifier()
    ]
