"""Constants kept once: Constant nodes become initializers, equal initializers become one."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from graphopt.model.constants import held_tensor
from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import add_initializer, constant, is_op, nbytes
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import is_unused, remove, replace
from passes.cleanup.sites import place
from passes.cleanup.tensors import digest, sample


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield rewrites that lift Constant nodes, then those that share equal initializers.

    Not in functions, which have no initializers, and not where a Constant is a graph output.
    Initializers that are graph inputs (the caller may override them) or outputs are left alone.
    """
    for scope in scopes(model):
        if scope.function is None:
            yield from _lift(scope)
    yield from shared(model)


def shared(model: ir.Model, *, constant_nodes: bool = False) -> Iterator[Rewrite]:
    """Yield one rewrite per initializer that holds what one before it, or around it, holds.

    Tensors are told apart by type and shape, then by a sample of their bytes, and those that are
    still alike by a hash of all of them, read in pieces: nothing is copied.

    Args:
        model: The model.
        constant_nodes: Whether readers of a Constant node may read an initializer instead.
    """
    sizes = Counter(
        _size_key(tensor)
        for scope in scopes(model)
        for tensor in _tensors(scope, constant_nodes=constant_nodes)
    )
    sharing = _Sharing(sizes, Names.of(model), constant_nodes=constant_nodes)
    yield from sharing.scope(Scope("", model.graph), ChainMap())


def _tensors(scope: Scope, *, constant_nodes: bool) -> Iterator[ir.TensorProtocol]:
    for value in scope.graph.initializers.values():
        if value.const_value is not None:
            yield value.const_value
    if constant_nodes and scope.function is None:
        for node in scope.graph:
            tensor = held_tensor(node)
            if tensor is not None:
                yield tensor


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


def _key(tensor: ir.TensorProtocol) -> Hashable:
    return *_size_key(tensor), sample(tensor)


@dataclass
class _Alike:
    """The initializers of one type, shape and sample; hashed only where there are two."""

    first: ir.Value
    by_digest: dict[bytes, ir.Value] = field(default_factory=dict)

    def same(self, tensor: ir.TensorProtocol) -> ir.Value | None:
        if _tensor(self.first) is tensor:
            return self.first
        if not self.by_digest:
            self.by_digest[digest(_tensor(self.first))] = self.first
        return self.by_digest.get(digest(tensor))

    def learn(self, value: ir.Value) -> None:
        self.by_digest[digest(_tensor(value))] = value


_Seen = ChainMap[Hashable, _Alike]


class _Sharing:
    """Finds equal initializers; those whose type and shape nobody shares are never read."""

    def __init__(self, sizes: Counter[_SizeKey], names: Names, *, constant_nodes: bool) -> None:
        self._sizes = sizes
        self._names = names
        self._constant_nodes = constant_nodes

    def scope(self, scope: Scope, seen: _Seen) -> Iterator[Rewrite]:
        """Share within a graph, then within each body what its graph and it have."""
        for value in list(scope.graph.initializers.values()):
            yield from self._initializer(scope, value, seen)
        for node in scope.graph:
            if self._constant_nodes and is_op(node, "Constant"):
                yield from self._constant(scope, node, seen)
            for body in bodies(node):
                inner = Scope(scope.at(node.name), body, owner=node)
                yield from self.scope(inner, seen.new_child())

    def _initializer(self, scope: Scope, value: ir.Value, seen: _Seen) -> Iterator[Rewrite]:
        tensor = constant(value)
        if tensor is None or not self._may_repeat(value, tensor):
            return
        key = _key(tensor)
        kept = self._kept(scope, tensor, key, seen)
        if kept is not None:
            yield self._rewrite(scope, value, kept, tensor, partial(_share, value, kept))
        elif key in seen.maps[0]:
            seen.maps[0][key].learn(value)
        else:
            seen[key] = _Alike(value)

    def _constant(self, scope: Scope, node: ir.Node, seen: _Seen) -> Iterator[Rewrite]:
        tensor, output = held_tensor(node), node.outputs[0]
        if tensor is None or not self._may_repeat(output, tensor):
            return
        kept = self._kept(scope, tensor, _key(tensor), seen)
        if kept is not None:
            yield self._rewrite(scope, output, kept, tensor, partial(_read_instead, node, kept))

    def _may_repeat(self, value: ir.Value, tensor: ir.TensorProtocol) -> bool:
        used_within = not value.is_graph_output() and not is_unused(value)
        return used_within and self._sizes[_size_key(tensor)] > 1

    def _kept(
        self, scope: Scope, tensor: ir.TensorProtocol, key: Hashable, seen: _Seen
    ) -> ir.Value | None:
        """Return an initializer that holds the same, and that this scope may read."""
        for level in seen.maps:
            kept = level[key].same(tensor) if key in level else None
            if kept is not None and self._may_share(scope, kept):
                return kept
        return None

    def _rewrite(
        self,
        scope: Scope,
        value: ir.Value,
        kept: ir.Value,
        tensor: ir.TensorProtocol,
        apply: Callable[[], None],
    ) -> Rewrite:
        size = nbytes(tensor)
        why = f"holds the same {size} bytes as {kept.name}"
        return Rewrite(scope.at(value.name), why, apply, {"bytes": size})

    def _may_share(self, scope: Scope, kept: ir.Value) -> bool:
        return scope.graph is kept.graph or not self._names.is_ambiguous(kept.name)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ValueError(f"{value.name!r} is no initializer")
    return value.const_value


def _read_instead(node: ir.Node, kept: ir.Value) -> None:
    replace(node.outputs[0], kept)
    remove(node)


def _share(value: ir.Value, kept: ir.Value) -> None:
    graph, name = value.graph, value.name
    if graph is None or name is None:
        raise ValueError(f"{name!r} is no initializer")
    for user, index in value.uses():
        user.replace_input_with(index, kept)
    graph.initializers.pop(name)
