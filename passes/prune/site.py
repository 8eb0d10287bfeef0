"""A node as the rules of operators see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.dims import Dim, Dims
from graphopt.rewrite.selection import address
from passes.prune.coupling import Adjust, Coupling
from passes.prune.places import Ids, Place


class Mixed(Exception):
    """A node through which nothing can be removed.

    Args:
        why: The reason, in one clause.
    """


@dataclass(frozen=True)
class Site:
    """A node whose tensors are to be coupled.

    Args:
        node: The node.
        scope: Where it stands.
        coupling: What is known so far.
        opset: The version of the operators of its domain.
    """

    node: ir.Node
    scope: Scope
    coupling: Coupling
    opset: int

    @property
    def at(self) -> str:
        """What a refusal calls the node."""
        return f"{self.node.op_type} {address(self.node, self.scope)}"

    def input(self, index: int) -> Place | None:
        """Return what the node reads; None for an input that it leaves out."""
        return self.coupling.places.read(self.node, index)

    def output(self, index: int) -> Place | None:
        """Return what the node writes; None for an output that it leaves out."""
        outputs = self.node.outputs
        return Place(outputs[index]) if index < len(outputs) and outputs[index].name else None

    def ends(self) -> tuple[Place, Place]:
        """Return the first input and the first output."""
        first, last = self.input(0), self.output(0)
        if first is None or last is None:
            raise self.mixed("has no input or output")
        return first, last

    def integer(self, name: str, default: int) -> int:
        """Return an attribute."""
        found = self.node.attributes.get_int(name, default)
        return default if found is None else found

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute of several integers; None where it is not there."""
        found = self.node.attributes.get_ints(name, None)
        return None if found is None else tuple(found)

    def dims(self, place: Place) -> Dims:
        """Return the sizes of a tensor.

        Raises:
            Mixed: Not even the rank is known.
        """
        dims = self.coupling.places.dims(place)
        if dims is None:
            raise self.mixed("has a tensor of unknown rank")
        return dims

    def axis(self, name: str, place: Place, default: int) -> int:
        """Return an attribute that is an axis of a tensor, counted from the front.

        Raises:
            Mixed: The rank is not known.
        """
        return self.counted(self.integer(name, default), len(self.dims(place)))

    def counted(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            Mixed: There is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.mixed("has an axis out of range")
        return axis % rank

    def ids(self, place: Place, axis: int) -> Ids | None:
        """Return the slices of a tensor along an axis; None where they are not known."""
        return self.coupling.places.ids(place, axis)

    def join(self, first: Place, axis: int, second: Place, other: int) -> None:
        """Let equal indices of two axes go together."""
        self.join_ids(self.ids(first, axis), self.ids(second, other))

    def join_ids(self, first: Ids | None, second: Ids | None) -> None:
        """Let slices go together one by one, or keep them where the others are not known."""
        if first is not None and second is not None and first.size == second.size:
            self.coupling.join(first, second)
            return
        for ids in (first, second):
            if ids is not None:
                self.coupling.stays.append((ids, f"{self.at} has sizes that are not known"))

    def join_all(self, first: Place, second: Place, besides: frozenset[int] = frozenset()) -> None:
        """Let all axes of two tensors of one rank go together, and keep those that are named.

        Raises:
            Mixed: A rank is not known, or they differ.
        """
        rank = len(self.dims(first))
        if rank != len(self.dims(second)):
            raise self.mixed("has tensors of different ranks")
        for axis in range(rank):
            if axis in besides:
                self.keep(first, axis)
                self.keep(second, axis)
            else:
                self.join(first, axis, second, axis)

    def keep(self, place: Place, axis: int | None = None, why: str = "mixes them") -> None:
        """Keep the slices of one axis, or of all."""
        self.coupling.freeze(place, f"{self.at} {why}", axis)

    def adjust(self, adjust: Adjust) -> None:
        """Have something follow the sizes of the node's tensors."""
        self.coupling.adjusters[self.node] = adjust

    def mixed(self, why: str) -> Mixed:
        """Make the reason why nothing can be removed through this node."""
        return Mixed(f"{self.at} {why}")


Rule = Callable[[Site], None]
"""Couples the slices of a node's tensors, or raises `Mixed`."""


def known(dim: Dim) -> int | None:
    """Return a size that is a number."""
    return dim if isinstance(dim, int) else None
