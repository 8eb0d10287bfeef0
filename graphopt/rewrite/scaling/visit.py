"""A node on the way of scaled channels, reached through one of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.rewrite.scaling.lanes import Lane
from graphopt.rewrite.scaling.parts import Refused

if TYPE_CHECKING:
    from graphopt.rewrite.scaling.group import Walk


@dataclass(frozen=True)
class Visit:
    """A node that is reached through one of its values.

    Args:
        walk: The search.
        node: The node.
        index: The input that was reached; None: an output.
        value: The value that was reached.
        lane: Its channels.
    """

    walk: Walk
    node: ir.Node
    index: int | None
    value: ir.Value
    lane: Lane

    def input(self, index: int) -> ir.Value | None:
        """Return an input that the node may leave out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def refuse(self, why: str) -> Refused:
        """Make the reason why this node lets no scales pass."""
        return Refused(f"{self.node.op_type} {self.walk.scaling.at(self.node)} {why}")


Rule = Callable[[Visit], None]
"""Passes scales on to the other values of a node, or raises `Refused`."""


def same(visit: Visit) -> None:
    """It acts on each element, or on those of one channel: input 0 and output 0 share channels."""
    if visit.index not in (None, 0):
        raise visit.refuse("reads it as a parameter")
    visit.walk.spread(visit.node.inputs[0], visit.lane)
    visit.walk.spread(visit.node.outputs[0], visit.lane)


def rank_of(visit: Visit) -> int:
    """Return the rank of what a node reads."""
    for value in (visit.node.inputs[0], visit.node.outputs[0]):
        rank = visit.walk.shapes.rank(value)
        if rank is not None:
            return rank
    kernel = visit.node.attributes.get("kernel_shape")
    if kernel is not None and not kernel.is_ref():
        return len(kernel.as_ints()) + 2
    raise visit.refuse("has an input of unknown rank")
