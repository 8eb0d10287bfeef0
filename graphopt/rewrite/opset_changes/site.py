"""A node to write in another version: what edits ask of it, and what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, add_constant
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import replace
from graphopt.rewrite.value_types import ValueTypes

Edit = Callable[[], None]
"""Changes one node, in place."""

Rule = Callable[["Site"], Edit | None]
"""Returns the edit that a node needs, None where it may stay; raises `Impossible`."""


class Impossible(Exception):
    """A node has no equal in another version, for the reason in the message."""


class Facts:
    """What edits look up in a model, found out when it is first asked for."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def names(self) -> Names:
        """The names that are taken."""
        return Names(self._model)

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes."""
        return Shapes(self._model)

    @cached_property
    def types(self) -> ValueTypes:
        """Types."""
        return ValueTypes(self._model)


@dataclass(frozen=True)
class Site:
    """A node that is written in one version and has to be in another.

    Args:
        node: The node.
        source: The version it is written in.
        target: The version to write it in.
        facts: What is known of the model.
        in_function: Whether it belongs to a function.
    """

    node: ir.Node
    source: int
    target: int
    facts: Facts
    in_function: bool

    def crosses(self, version: int) -> bool:
        """Whether a change that came with a version lies between source and target."""
        return self.source < version <= self.target

    def has(self, *names: str) -> bool:
        """Whether the node has one of these attributes."""
        return any(name in self.node.attributes for name in names)

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, or a default where there is none."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            raise Impossible(f"its attribute {name!r} comes from the caller of the function")
        return attribute.value

    def rank(self, index: int) -> int | None:
        """Return the rank of an input, where it is known."""
        return self.facts.shapes.rank(self.node.inputs[index])

    def dtype(self, index: int) -> ir.DataType:
        """Return the type of an input, which must be known."""
        dtype = self.facts.types(self.node.inputs[index])
        if dtype is None:
            raise Impossible("the type of its input is not known")
        return dtype

    def constant(self, what: str, content: Array) -> ir.Value:
        """Add a constant that the node can read."""
        base = self.node.outputs[0].name or self.node.name or self.node.op_type
        name = self.facts.names.fresh(f"{base}_{what}")
        tensor = ir.Tensor(content, name=name)
        return add_constant(self.node, name, tensor, in_function=self.in_function)

    def integers(self, what: str, content: Sequence[int]) -> ir.Value:
        """Add a constant list of int64."""
        return self.constant(what, np.asarray(content, np.int64).reshape(-1))

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], what: str, **attributes: Any
    ) -> ir.Value:
        """Insert a node in front of this one; return its output.

        It stands for a part of this node, and says of itself what this node says: `doc_string`,
        and metadata such as where in the source of the model it comes from.
        """
        base = self.node.outputs[0].name or self.node.name or self.node.op_type
        name = self.facts.names.fresh(f"{base}_{what}")
        attrs = [ir.convenience.convert_attribute(key, attributes[key]) for key in attributes]
        output = ir.Value(name=name)
        node = ir.Node(
            *("", op_type, inputs, attrs),
            outputs=[output],
            name=name,
            doc_string=self.node.doc_string,
            metadata_props=dict(self.node.metadata_props),
        )
        self._graph.insert_before(self.node, node)
        return output

    def read(self, index: int, value: ir.Value | None) -> None:
        """Let the node read a value as its input `index`."""
        if len(self.node.inputs) <= index:
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def give_way(self, *lasts: ir.Value) -> None:
        """Let the readers of each output read one of `lasts`, with its name; drop the node."""
        for old, last in zip(self.node.outputs, lasts, strict=False):
            name, kind, shape = old.name, old.type, old.shape
            replace(old, last)
            last.name, last.type, last.shape = name, kind, shape
            last.doc_string = old.doc_string
            last.metadata_props.update(old.metadata_props)
            last.meta.update(old.meta)
        self._graph.remove(self.node, safe=True)

    @property
    def _graph(self) -> ir.Graph:
        if self.node.graph is None:
            raise ValueError(f"{self.node.name!r} is in no graph")
        return self.node.graph


def in_turn(*edits: Edit | None) -> Edit | None:
    """Return one edit for several, those that are None left out; None where all are."""
    found = [edit for edit in edits if edit is not None]
    if not found:
        return None

    def apply() -> None:
        for edit in found:
            edit()

    return apply
