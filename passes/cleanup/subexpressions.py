"""Nodes that compute what another node has computed already."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import is_op
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import can_replace, remove, replace
from passes.cleanup.determinism import determinism
from passes.cleanup.sites import place
from passes.cleanup.tensors import digest

_COMMUTATIVE = frozenset({"Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor"})

_Key = tuple[Hashable, ...]
_Seen = MutableMapping[_Key, ir.Node]


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per node that repeats an earlier one: its readers read the earlier one.

    Nodes are equal in operator, attributes (tensors by content), inputs and number of outputs; the
    inputs of commutative operators in any order. A node in a body may repeat one around it. Nodes
    with bodies, random nodes and operators of unknown domains are left alone.
    """
    walk = _Walk(model)
    for scope in list(scopes(model)):
        if scope.owner is None:
            yield from walk.scope(scope.graph, ChainMap(), scope)


class _Walk:
    def __init__(self, model: ir.Model) -> None:
        self._is_deterministic = determinism(model)
        self._names = Names.of(model)
        self._scopes = {id(scope.graph): scope for scope in scopes(model)}

    def scope(
        self, graph: ir.Graph, seen: ChainMap[_Key, ir.Node], scope: Scope
    ) -> Iterator[Rewrite]:
        """Walk the nodes in order, and each body with what was computed before its owner."""
        for node in graph:
            inner = list(bodies(node))
            for body in inner:
                yield from self.scope(body, seen.new_child(), self._scopes[id(body)])
            if inner or not self._is_deterministic(node):
                continue
            key = _key(node)
            if key is None:
                continue
            earlier = seen.setdefault(key, node)
            if earlier is not node and self._may_merge(node, earlier):
                yield Rewrite(
                    place(scope, node),
                    f"computes the same as {earlier.name or earlier.outputs[0].name}",
                    partial(_merge, node, earlier),
                )

    def _may_merge(self, node: ir.Node, earlier: ir.Node) -> bool:
        pairs = list(zip(node.outputs, earlier.outputs, strict=True))
        if node.graph is not earlier.graph and any(
            self._names.is_ambiguous(kept.name) for _, kept in pairs
        ):
            return False
        if all(can_replace(output, kept) for output, kept in pairs):
            return True
        # Two outputs of the graph: an Identity is cheaper than computing twice, unless the node
        # is one already, or holds a constant.
        return node.graph is earlier.graph and not is_op(node, "Identity", "Constant")


def _merge(node: ir.Node, earlier: ir.Node) -> None:
    for output, kept in zip(node.outputs, earlier.outputs, strict=True):
        replace(output, kept)
    remove(node)


def _key(node: ir.Node) -> _Key | None:
    inputs = [0 if value is None else id(value) for value in node.inputs]
    if is_op(node, *_COMMUTATIVE):
        inputs.sort()
    attributes = []
    for name in sorted(node.attributes):
        contents = _attribute_key(node.attributes[name])
        if contents is None:
            return None
        attributes.append((name, contents))
    present = tuple(bool(output.name) for output in node.outputs)
    return (*node.op_identifier(), tuple(inputs), tuple(attributes), present)


def _attribute_key(attribute: ir.Attr) -> Hashable:
    if attribute.is_ref():
        return ("ref", attribute.ref_attr_name)
    write = _ATTRIBUTE_KEYS.get(attribute.type)
    return None if write is None else (attribute.type, write(attribute))


def _tensor_key(tensor: ir.TensorProtocol) -> Hashable:
    return (tensor.dtype, tuple(tensor.shape.numpy()), digest(tensor))


def _float_key(number: float) -> Hashable:
    # 0.0 == -0.0 and nan != nan, but attributes are equal when their bits are.
    return number.hex()


# `Attr.as_tensor` checks the whole protocol of tensors, which takes longer than hashing one.
_ATTRIBUTE_KEYS: dict[ir.AttributeType, Callable[[ir.Attr], Hashable]] = {
    ir.AttributeType.INT: ir.Attr.as_int,
    ir.AttributeType.FLOAT: lambda attribute: _float_key(attribute.as_float()),
    ir.AttributeType.STRING: ir.Attr.as_string,
    ir.AttributeType.INTS: lambda attribute: tuple(attribute.as_ints()),
    ir.AttributeType.FLOATS: lambda attribute: tuple(map(_float_key, attribute.as_floats())),
    ir.AttributeType.STRINGS: lambda attribute: tuple(attribute.as_strings()),
    ir.AttributeType.TENSOR: lambda attribute: _tensor_key(attribute.value),
    ir.AttributeType.TENSORS: lambda attribute: tuple(map(_tensor_key, attribute.as_tensors())),
}
"""How attributes compare; graphs, sparse tensors and types do not."""
