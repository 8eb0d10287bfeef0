"""What a rule is given: corresponding nodes, and what they read, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import integers
from graphopt.rewrite.dims import Dims
from passes.merge.stack_members.drafts import Attribute, Draft, Wire
from passes.merge.stack_members.layouts import Build, Lanes, Layout, Operand, Refused, Shared


@dataclass(frozen=True)
class Case:
    """Corresponding nodes of all lanes.

    Args:
        build: Plans what takes their place.
        node: The node of the first lane; the others' are equal but for their weights.
        operands: What they read, input by input.
        shapes: Of the outputs of one node.
        dtypes: Of the outputs of one node.
        layout: What the next operator would like best, where there is a choice.
    """

    build: Build
    node: ir.Node
    operands: Sequence[Operand]
    shapes: Sequence[Dims | None]
    dtypes: Sequence[ir.DataType | None]
    layout: Layout = Layout.LEAD

    def operand(self, index: int) -> Operand:
        """Return an input; None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def lanes(self, index: int = 0) -> Lanes:
        """Return an input that differs from lane to lane."""
        operand = self.operand(index)
        if not isinstance(operand, Lanes):
            raise Refused(f"input {index} of {self.node.op_type} is not computed in the lanes")
        return operand

    def shape(self, index: int = 0) -> Dims:
        """Return the shape of an output of one node."""
        found = self.shapes[index]
        if found is None:
            raise Refused(f"the rank of what {self.node.op_type} makes is not known")
        return found

    def number(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return self.node.attributes.get_int(name, default)

    def setting(self, name: str, index: int) -> tuple[int, ...] | None:
        """Return integers that stand in an attribute or a constant input; None: in neither."""
        known = self.node.attributes.get(name)
        if known is not None:
            return tuple(known.as_ints())
        operand = self.operand(index)
        if operand is None:
            return None
        found = integers(operand.value) if isinstance(operand, Shared) else None
        if found is None:
            raise Refused(f"{name} of {self.node.op_type} is not the same constant in all lanes")
        return found

    def rest(self, first: int = 1) -> list[Wire | None]:
        """Return the settings behind the data, which must be equal in all lanes."""
        wires: list[Wire | None] = []
        for operand in self.operands[first:]:
            if operand is not None and not isinstance(operand, Shared):
                raise Refused(f"settings of {self.node.op_type} differ from lane to lane")
            wires.append(None if operand is None else operand.wire)
        return wires

    def only_first_output(self) -> None:
        """Refuse nodes whose further outputs are there."""
        if any(output.name for output in self.node.outputs[1:]):
            raise Refused(f"{self.node.op_type} with several outputs")

    def result(self, wire: Wire, layout: Layout, index: int = 0) -> Lanes:
        """Make the stacked value of an output."""
        return Lanes(wire, layout, self.shape(index))

    def copied(self, inputs: Sequence[Wire | None], **changed: Attribute) -> Draft:
        """Plan the same operator on other inputs."""
        return self.build.copy(self.node, inputs, **changed)


Rule = Callable[[Case], Sequence[Lanes]]
"""Plans one operator for all lanes; returns its outputs. Raises Refused where it cannot."""


def normalized(axis: int, rank: int) -> int:
    """Return an axis that is not negative."""
    return axis + rank if axis < 0 else axis
