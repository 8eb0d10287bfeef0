"""Functions that nobody calls, and operator sets that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from functools import partial

import onnx_ir as ir

from graphopt.model.calls import callees, label
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import ONNX_DOMAINS


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one removal per function that is never called, then one per unused opset import.

    ONNX's own operator set stays imported, used or not: checkers ask for it.
    """
    called = callees(model)
    for identifier in [key for key in model.functions if key not in called]:
        name = label(identifier)
        drop = partial(model.functions.__delitem__, identifier)
        yield Rewrite(name, "nobody calls this function", drop)
    yield from _unused_imports(model.opset_imports, model.graph, "")
    for identifier, function in model.functions.items():
        name = label(identifier)
        yield from _unused_imports(function.opset_imports, function.graph, name)


def _unused_imports(
    imports: MutableMapping[str, int], graph: ir.Graph, scope: str
) -> Iterator[Rewrite]:
    used = {node.domain for node in graph.all_nodes()}
    for domain in [key for key in imports if key not in used and key not in ONNX_DOMAINS]:
        yield Rewrite(
            f"{scope}/{domain}" if scope else domain,
            "no node uses this operator set",
            partial(imports.__delitem__, domain),
        )
