"""Which pairs of linear nodes are less work as one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Detail
from graphopt.rewrite.constants import is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs, selects
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import only_user
from passes.cleanup.linear import Linear, linear
from passes.cleanup.sites import Site, place
from passes.merge.fuse_chain.joining import join
from passes.merge.fuse_chain.links import Link, link
from passes.merge.fuse_chain.products import Products
from passes.merge.fuse_siblings.sources import RefusedError, source_of
from passes.merge.gain import Candidate

_OPERATORS = ("Conv", "Gemm", "MatMul")


def find(
    model: ir.Model,
    products: Products,
    *,
    include: Globs = "*",
    exclude: Globs = "",
    but: Collection[str] = (),
) -> Iterator[Candidate | Declined]:
    """Yield pairs that share no node, those which save the most first, and what is refused.

    Args:
        model: Where to look.
        products: Of weights of the model, and of copies that share them.
        include: As of `selects`, for the second node.
        exclude: Likewise.
        but: Where not to look again.
    """
    names = Names.of(model)
    found: list[Link] = []
    for scope in scopes(model):
        site = Site(Shapes.of(model), opset(model, scope.function))
        for node in scope.graph:
            if place(scope, node) in but or not selects(node, scope, include, exclude):
                continue
            try:
                pair = _pair(node, scope, site)
            except RefusedError as refusal:
                yield Declined(place(scope, node), f"stays behind its operand: {refusal}")
                continue
            if pair is not None:
                found.append(pair)
    taken: set[ir.Node] = set()
    for pair in sorted(found, key=lambda item: item.macs_after - item.macs_before):
        if taken.isdisjoint(pair.nodes):
            taken.update(pair.nodes)
            yield from _candidate(pair, names, products)


def _pair(node: ir.Node, scope: Scope, site: Site) -> Link | None:
    second = _linear(node, site)
    if second is None:
        return None
    between = node.inputs[second.data_index]
    producer = None if between is None else between.producer()
    if between is None or producer is None or producer.graph is not node.graph:
        return None
    if only_user(between) is not node:
        return None
    first = _linear(producer, site) or _behind_add(producer, site)
    if first is None or first.tail.outputs[0] is not between:
        return None
    if any(source_of(item.node.inputs[item.weight_index]) is None for item in (first, second)):
        return None  # a product of activations
    pair = link(first, second, scope, site)
    return pair if pair is not None and pair.macs_after < pair.macs_before else None


def _linear(node: ir.Node, site: Site) -> Linear | None:
    if node.op_type not in _OPERATORS or not is_op(node, node.op_type) or len(node.outputs) != 1:
        return None
    return linear(node, site)


def _behind_add(node: ir.Node, site: Site) -> Linear | None:
    """The MatMul in front of an Add that is its bias."""
    if not is_op(node, "Add"):
        return None
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and is_op(producer, "MatMul"):
            return _linear(producer, site)
    return None


def _candidate(pair: Link, names: Names, products: Products) -> Iterator[Candidate | Declined]:
    first, second = pair.first.node, pair.second.node
    at = place(pair.scope, second)
    try:
        joined = join(pair, at, products)
    except RefusedError as refusal:
        yield Declined(at, f"stays behind {_label(first)}: {refusal}")
        return
    ratio = pair.macs_after / pair.macs_before
    why = f"{_label(first)} and {second.op_type} become one, with {ratio:.2f}x of their MACs"
    details: dict[str, Detail] = {
        "share_of_macs": round(ratio, 4),
        "weight": "x".join(map(str, pair.weight_shape)),
    }
    yield Candidate(at, why, pair.group, partial(joined.apply, names), details)


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name}"
