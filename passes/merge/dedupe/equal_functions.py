"""Functions that do the same become one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from functools import partial

import onnx_ir as ir

from graphopt.model.calls import callees_first, label
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Rewrite
from passes.cleanup.node_keys import Key, NodeKeys

_Calls = defaultdict[ir.OperatorIdentifier, list[tuple[ir.Node, MutableMapping[str, int]]]]
"""The nodes that call a function, each with the opset imports of the scope it stands in."""


def rewrites(model: ir.Model) -> Iterator[Rewrite]:
    """Yield one rewrite per function that computes what another does: it is called instead.

    Names and the order of nodes do not count; parameters, defaults, opset versions and everything
    inside do. Callees come before their callers, so that one sweep is enough.
    """
    calls = _calls(model)
    keys = NodeKeys(model)
    kept: dict[Key, ir.Function] = {}
    for identifier in callees_first(model):
        function = model.functions[identifier]
        key = keys.function(function)
        if key is None:
            continue
        same = kept.setdefault(key, function)
        if same is not function:
            yield Rewrite(
                label(function.identifier()),
                f"is the same function as {label(same.identifier())}",
                partial(_merge, model, function, same, calls),
                {"nodes": sum(1 for _ in function.all_nodes())},
            )


def _calls(model: ir.Model) -> _Calls:
    calls: _Calls = defaultdict(list)
    for scope in scopes(model):
        imports = (model if scope.function is None else scope.function).opset_imports
        for node in scope.graph:
            identifier = node.op_identifier()
            if identifier in model.functions:
                calls[identifier].append((node, imports))
    return calls


def _merge(model: ir.Model, function: ir.Function, same: ir.Function, calls: _Calls) -> None:
    identifier, kept = function.identifier(), same.identifier()
    version = model.opset_imports.get(kept[0], 1)
    for node, imports in calls[identifier]:
        node.domain, node.op_type, node.overload = kept
        imports.setdefault(kept[0], version)
    calls[kept] += calls.pop(identifier, [])
    del model.functions[identifier]
