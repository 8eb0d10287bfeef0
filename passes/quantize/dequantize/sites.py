"""Where integers are turned back: whether that is asked for, and how values are put in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import add_constant
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs, selects
from graphopt.rewrite.uses import remove, remove_unread, replace


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Args:
        include: Globs as in `selection.selects`.
        exclude: Likewise.
        op_types: Likewise.
    """

    include: Globs
    exclude: Globs
    op_types: tuple[str, ...] | None

    def chooses(self, scope: Scope, nodes: Iterable[ir.Node]) -> bool:
        """Whether one of the nodes of a place is asked for, and none kept out."""
        there = list(nodes)
        if not any(selects(node, scope, self.include, "", self.op_types) for node in there):
            return False
        return not (self.exclude and any(selects(node, scope, self.exclude) for node in there))


def around(node: ir.Node) -> Iterator[ir.Node]:
    """Yield a node and the nodes that read what it writes."""
    yield node
    for output in node.outputs:
        yield from (use.node for use in output.uses())


@dataclass(frozen=True)
class Site:
    """Where nodes are put.

    Args:
        model: The model.
        scope: The scope.
    """

    model: ir.Model
    scope: Scope

    def constant(self, before: ir.Node, base: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant that a node and those behind it can read."""
        name = Names.of(self.model).fresh(base)
        tensor.name = name
        in_function = self.scope.function is not None
        return add_constant(before, name, tensor, in_function=in_function)

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: Iterable[ir.Attr] = (),
        outputs: int = 1,
    ) -> ir.Node:
        """Add a node of ONNX's own operators in front of another."""
        base = before.name or next((o.name for o in before.outputs if o.name), None) or op_type
        names = Names.of(self.model)
        written = [ir.Value(name=names.fresh(f"{base}_real")) for _ in range(outputs)]
        node = ir.Node(
            "", op_type, inputs, list(attributes), outputs=written, name=names.fresh(f"{base}_real")
        )
        if before.graph is None:
            raise ValueError(f"{before.name!r} is in no graph")
        before.graph.insert_before(before, node)
        return node


def take_over(old: ir.Node, values: Iterable[ir.Value]) -> None:
    """Let the readers of a node read other values, and remove it and what only it has read."""
    read = list(old.inputs)
    for output, value in zip(old.outputs, values, strict=False):
        replace(output, value)
    remove(old)
    remove_unread(read)
