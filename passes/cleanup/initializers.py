"""Constants kept once: Constant nodes become initializers, equal initializers become one."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Hashable, Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import add_initializer, constant, is_op, nbytes
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import is_unused, remove, replace
from passes.cleanup.sites import place
from passes.cleanup.tensors import equal, sample


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield rewrites that lift Constant nodes, then those that share equal initializers.

    Not in functions, which have no initializers, and not where a Constant is a graph output.
    Initializers that are graph inputs (the caller may override them) or outputs are left alone.
    """
    for scope in scopes(model):
        if scope.function is None:
            yield from _lift(scope)
    sizes = Counter(
        _size_key(value.const_value)
        for scope in scopes(model)
        for value in scope.graph.initializers.values()
        if value.const_value is not None
    )
    yield from _Sharing(sizes, Names.of(model)).scope(Scope("", model.graph), ChainMap())


def _lift(scope: Scope) -> Iterator[Rewrite]:
    for node in scope.graph:
        if not is_op(node, "Constant") or len(node.outputs) != 1:
            continue
        tensor = constant(node.outputs[0])
        if tensor is not None and node.outputs[0].name and not node.outputs[0].is_graph_output():
            yield Rewrite(
                place(scope, node),
                "a Constant node can be an initializer",
                partial(lift, node, tensor),
            )


def lift(node: ir.Node, tensor: ir.TensorProtocol) -> None:
    """Turn the Constant node that holds a tensor into an initializer of the same name."""
    output, graph = node.outputs[0], node.graph
    if graph is None or output.name is None:
        raise ValueError(f"{node.name!r} is in no graph, or its output has no name")
    name, output.name = output.name, None
    value = add_initializer(graph, name, tensor)
    value.metadata_props.update(output.metadata_props)
    replace(output, value)
    remove(node)


_SizeKey = tuple[ir.DataType, tuple[int, ...]]


def _size_key(tensor: ir.TensorProtocol) -> _SizeKey:
    return tensor.dtype, tuple(int(size) for size in tensor.shape.numpy())


class _Sharing:
    """Finds equal initializers; those whose type and shape nobody shares are never read."""

    def __init__(self, sizes: Counter[_SizeKey], names: Names) -> None:
        self._sizes = sizes
        self._names = names

    def scope(self, scope: Scope, seen: ChainMap[Hashable, list[ir.Value]]) -> Iterator[Rewrite]:
        """Share within a graph, then within each body what its graph and it have."""
        for value in list(scope.graph.initializers.values()):
            yield from self._initializer(scope, value, seen)
        for node in scope.graph:
            for body in bodies(node):
                inner = Scope(scope.at(node.name), body, owner=node)
                yield from self.scope(inner, seen.new_child())

    def _initializer(
        self, scope: Scope, value: ir.Value, seen: ChainMap[Hashable, list[ir.Value]]
    ) -> Iterator[Rewrite]:
        tensor = constant(value)
        if tensor is None or value.is_graph_output() or is_unused(value):
            return
        size = _size_key(tensor)
        if self._sizes[size] < 2:
            return
        key = (*size, sample(tensor))
        alike = seen.get(key, [])
        for kept in alike:
            if self._may_share(value, kept) and equal(tensor, _tensor(kept)):
                why = f"holds the same {nbytes(tensor)} bytes as {kept.name}"
                yield Rewrite(scope.at(value.name), why, partial(_share, value, kept))
                return
        seen[key] = [*alike, value]

    def _may_share(self, value: ir.Value, kept: ir.Value) -> bool:
        return value.graph is kept.graph or not self._names.is_ambiguous(kept.name)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ValueError(f"{value.name!r} is no initializer")
    return value.const_value


def _share(value: ir.Value, kept: ir.Value) -> None:
    graph, name = value.graph, value.name
    if graph is None or name is None:
        raise ValueError(f"{name!r} is no initializer")
    for user, index in value.uses():
        user.replace_input_with(index, kept)
    graph.initializers.pop(name)
