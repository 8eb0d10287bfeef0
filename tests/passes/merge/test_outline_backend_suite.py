"""dedupe, outline and inline on the models of ONNX's own backend suite, each copied side by side.

Six copies of a single node are three times two nodes, so that every operator, also those with
bodies, is put into a function, written out again, and merged with its copies.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from before_after import apply
from test_cleanup_backend_suite import DRAWN, cases, close, run

from graphopt.model.order import restore_order
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Pass, Rewrite
from passes.merge.dedupe import Dedupe
from passes.merge.inline import Inline
from passes.merge.outline import Outline

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the suite makes NaN and inf

COPIES = 6


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put copies of the nodes of a graph side by side; inputs and weights are the same for all."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    kept = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for name in ("node", "output", "value_info"):
        result.graph.ClearField(name)
    for copy in range(COPIES):
        for node in model.graph.node:
            result.graph.node.append(renamed(node, f"c{copy}/", kept))
        for output in model.graph.output:
            twin = result.graph.output.add()
            twin.CopyFrom(output)
            twin.name = f"c{copy}/{output.name}"
    return result


def renamed(node: onnx.NodeProto, start: str, kept: set[str]) -> onnx.NodeProto:
    twin = onnx.NodeProto.FromString(node.SerializeToString())
    for names in (twin.input, twin.output):
        names[:] = [name if not name or name in kept else start + name for name in names]
    twin.name = start + node.name if node.name else ""
    for attribute in twin.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            rename_body(attribute.g, start, kept)
    return twin


def rename_body(body: onnx.GraphProto, start: str, kept: set[str]) -> None:
    nodes = [renamed(node, start, kept) for node in body.node]
    body.ClearField("node")
    body.node.extend(nodes)
    for value in (*body.input, *body.output, *body.value_info, *body.initializer):
        value.name = start + value.name


def after(work: Pass, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    loaded = ir.from_proto(model)
    restore_order(loaded)
    said = apply(lambda it: work.rewrites(it, Context()), loaded)
    restore_order(loaded)
    return ir.to_proto(loaded), sum(isinstance(step, Rewrite) for step in said)


def operators(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    loaded = ir.from_proto(model)
    nodes = (node for scope in scopes(loaded) for node in scope.graph)
    return Counter((node.domain, node.op_type) for node in nodes)


def equal(got: list[Any] | None, want: list[Any]) -> bool:
    return got is not None and len(got) == len(want) and all(map(close, got, want))


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_copies_are_merged_outlined_and_inlined(every: int) -> None:
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for name, model, inputs, _ in islice(cases(), 0, None, every):
        if any(word in name for word in DRAWN):
            continue
        many = copied(model)
        before = run(many, inputs)
        if before is None:
            seen["not for ONNX Runtime"] += 1
            continue
        deduped, merges = after(Dedupe(), many)
        outlined, functions = after(Outline(nodes=2), many)
        inlined, calls = after(Inline(), outlined)
        seen["merged"] += merges > 0
        seen["outlined"] += functions > 0
        if not equal(run(deduped, inputs), before):
            wrong.append(f"dedupe of {name}")
        if not equal(run(outlined, inputs), before):
            wrong.append(f"outline of {name}")
        if not equal(run(inlined, inputs), before) or operators(inlined) != operators(many):
            wrong.append(f"inline of {name}")
        if calls < functions or (inlined.functions and not many.functions):
            wrong.append(f"calls left in {name}")
    print(dict(seen))
    assert wrong == []
    assert seen["merged"] > 1200 // every
    assert seen["outlined"] > 880 // every
