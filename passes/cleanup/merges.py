"""Two nodes that one node can do the work of: what the rules for them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import add_constant, is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import can_replace, is_unused, only_user, remove, remove_unread, replace
from passes.cleanup.sites import Site

Operand = ir.Value | ir.TensorProtocol | None
"""An input: a value that is there, a new constant, or left out."""


@dataclass(frozen=True)
class Merged:
    """What a node turns into, so that the node in front of it is not needed any more.

    Args:
        op_type: The operator.
        inputs: What it reads.
        attributes: All of them.
    """

    op_type: str
    inputs: Sequence[Operand]
    attributes: Sequence[ir.Attr] = field(default=())


@dataclass(frozen=True)
class Same:
    """A value that the output of a node equals."""

    value: ir.Value


Merge = Callable[[ir.Node, ir.Node, Site], Merged | Same | None]
"""Given the node in front, the node behind it, and where they stand, merge them."""

_SYMMETRIC = ("Add", "Concat", "Gemm", "MatMul", "Mul")
"""Operators that take data at any input; all others take it at the first, settings behind it."""


def rewrites(
    model: ir.Model, merges: Mapping[tuple[str, str], Merge]
) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per pair of nodes that can be one.

    Args:
        model: The model.
        merges: By the operators of the inner node (the one in front) and the outer node.
    """
    outer_types = {outer for _, outer in merges}
    for scope in scopes(model):
        site = Site(Shapes.of(model), opset(model, scope.function))
        for node in scope.graph:
            if node.op_type in outer_types and is_op(node, node.op_type):
                yield from _merge_all(scope, node, site, merges, Names.of(model))


def _merge_all(
    scope: Scope,
    node: ir.Node,
    site: Site,
    merges: Mapping[tuple[str, str], Merge],
    names: Names,
) -> Iterator[Rewrite]:
    """Merge a node with what is in front of it, again and again."""
    while node.graph is not None:
        found = _first(node, site, merges)
        if found is None:
            return
        inner, merged = found
        at = scope.at(node.name or node.outputs[0].name)
        before = list(node.inputs)
        in_function = scope.function is not None
        yield Rewrite(
            at,
            f"{inner.op_type} {inner.name or inner.outputs[0].name} and {node.op_type} are one",
            partial(_apply, node, merged, names, in_function=in_function),
        )
        if node.graph is not None and list(node.inputs) == before:
            return  # offered, and not applied


def _first(
    node: ir.Node, site: Site, merges: Mapping[tuple[str, str], Merge]
) -> tuple[ir.Node, Merged | Same] | None:
    if not node.outputs or not all(is_unused(output) for output in node.outputs[1:]):
        return None
    for value in node.inputs if node.op_type in _SYMMETRIC else node.inputs[:1]:
        inner = None if value is None else value.producer()
        if inner is None or value is not inner.outputs[0] or inner.graph is not node.graph:
            continue
        merge = merges.get((inner.op_type, node.op_type))
        if merge is None or not is_op(inner, inner.op_type):
            continue
        merged = merge(inner, node, site)
        if isinstance(merged, Same) and can_replace(node.outputs[0], merged.value):
            return inner, merged
        # With other readers, the inner node would stay, and nothing be gained.
        if isinstance(merged, Merged) and _is_dispensable(inner, node):
            return inner, merged
    return None


def _is_dispensable(inner: ir.Node, node: ir.Node) -> bool:
    return only_user(inner.outputs[0]) is node and all(
        is_unused(output) for output in inner.outputs[1:]
    )


def _apply(node: ir.Node, merged: Merged | Same, names: Names, *, in_function: bool) -> None:
    if isinstance(merged, Same):
        replace(node.outputs[0], merged.value)
        remove(node)
        return
    before = list(node.inputs)
    base = node.name or node.outputs[0].name or merged.op_type
    inputs = [
        operand
        if operand is None or isinstance(operand, ir.Value)
        else add_constant(node, names.fresh(f"{base}_{index}"), operand, in_function=in_function)
        for index, operand in enumerate(merged.inputs)
    ]
    node.op_type = merged.op_type
    node.attributes.clear()
    for attribute in merged.attributes:
        node.attributes[attribute.name] = attribute
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    remove_unread(before)
