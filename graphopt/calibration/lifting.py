"""Bringing values of bodies and functions out to the main graph.

A part is a one-dimensional value. On its way out

- an If returns it from the branch that has it, and what stands for nothing from the other;
- a Loop carries it: pieces are joined, extents are taken over all iterations;
- a Scan collects it, so that it must have one size in all iterations;
- a function returns it to all of its calls, and each goes its own way.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.rewrite.constants import ONNX_DOMAINS
from graphopt.rewrite.names import Names


class Join(enum.Enum):
    """How parts of several iterations become one."""

    CONCAT = "Concat"
    MIN = "Min"
    MAX = "Max"
    SUM = "Add"

    @property
    def one_element(self) -> bool:
        """Whether a part has one element, however many iterations there were."""
        return self is not Join.CONCAT

    def neutral(self, dtype: ir.DataType) -> ir.TensorProtocol:
        """What stands for a part that never came."""
        content: list[float] = {
            Join.CONCAT: [],
            Join.MIN: [np.inf],
            Join.MAX: [-np.inf],
            Join.SUM: [0.0],
        }[self]
        return ir.Tensor(np.array(content, dtype.numpy()))


@dataclass(frozen=True)
class Part:
    """A one-dimensional value of some scope.

    Args:
        value: The value.
        join: How it is joined.
        dtype: Its element type.
    """

    value: ir.Value
    join: Join
    dtype: ir.DataType


class UnreachableError(Exception):
    """A value cannot be brought out; the message is the reason."""


class Lifter:
    """Brings parts out of the scopes of one model, which it edits.

    Args:
        model: Edited.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = Names(model)
        self._scopes = {id(scope.graph): scope for scope in scopes(model)}
        self._owners = {key: scope.owner for key, scope in self._scopes.items()}
        self._values: dict[int, dict[str, ir.Value]] = {}

    def scopes(self) -> tuple[Scope, ...]:
        """The scopes of the model."""
        return tuple(self._scopes.values())

    def value(self, scope: Scope, name: str) -> ir.Value:
        """Return a value of a scope as it is now."""
        values = self._values.get(id(scope.graph))
        if values is None:
            values = {value.name: value for value in scope.graph.inputs if value.name}
            for node in scope.graph:
                values.update({value.name: value for value in node.outputs if value.name})
            self._values[id(scope.graph)] = values
        return values[name]

    def add(
        self,
        graph: ir.Graph,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        **attributes: int | ir.DataType,
    ) -> ir.Value:
        """Add a node at the end of a graph; return what it computes."""
        output = self._output(op_type, dtype)
        plain = {name: int(attribute) for name, attribute in attributes.items()}
        listed = [ir.AttrInt64(name, attribute) for name, attribute in plain.items()]
        graph.append(ir.Node("", op_type, inputs, listed, outputs=[output]))
        return output

    def constant(self, graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant at the end of a graph."""
        output = self._output("constant", tensor.dtype)
        graph.append(
            ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], outputs=[output])
        )
        return output

    def lift(self, scope: Scope, parts: Sequence[Part]) -> tuple[tuple[str, ...], ...]:
        """Bring parts out; return their names in the main graph: one tuple for each way out.

        Raises:
            UnreachableError: They cannot be brought out. Ways that were begun stay, unused.
        """
        pending = [(scope, tuple(parts))]
        found: list[tuple[str, ...]] = []
        while pending:
            current, carried = pending.pop()
            if current.graph is self._model.graph:
                found.append(tuple(part.value.name or "" for part in carried))
            elif self._owners[id(current.graph)] is None:
                pending.extend(reversed(self._out_of_function(current, carried)))
            else:
                pending.append(self._out_of_body(current, carried))
        if not found:
            raise UnreachableError("inside a function that is not called")
        return tuple(found)

    def _output(self, base: str, dtype: ir.DataType) -> ir.Value:
        name = self._names.fresh(f"graphopt_{base}")
        return ir.Value(name=name, type=ir.TensorType(dtype))

    def _out_of_function(
        self, scope: Scope, parts: tuple[Part, ...]
    ) -> list[tuple[Scope, tuple[Part, ...]]]:
        function = scope.function
        assert function is not None
        function.opset_imports.setdefault("", self._model.opset_imports.get("", 1))
        calls = [
            (outer, node)
            for outer in self._scopes.values()
            for node in outer.graph
            if node.op_identifier() == function.identifier()
        ]
        before = len(function.outputs)
        function.outputs.extend(part.value for part in parts)
        return [(outer, self._extended(node, before, parts)) for outer, node in calls]

    def _extended(self, node: ir.Node, before: int, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Let a node have outputs for parts, behind the `before` ones that its operator has."""
        had = len(node.outputs)
        node.resize_outputs(before + len(parts))
        for left_out in node.outputs[had:before]:
            left_out.name = ""
        grown = []
        for value, part in zip(node.outputs[before:], parts, strict=True):
            value.name = self._names.fresh("graphopt_lifted")
            value.type = ir.TensorType(part.dtype)
            grown.append(Part(value, part.join, part.dtype))
        return tuple(grown)

    def _out_of_body(self, scope: Scope, parts: tuple[Part, ...]) -> tuple[Scope, tuple[Part, ...]]:
        node = self._owners[id(scope.graph)]
        assert node is not None
        assert node.graph is not None
        outer = self._scopes[id(node.graph)]
        kind = node.op_type if node.domain in ONNX_DOMAINS else ""
        if kind == "If":
            return outer, self._out_of_branch(scope, node, parts)
        if kind == "Loop":
            return outer, self._out_of_loop(scope, outer, node, parts)
        if kind == "Scan":
            return outer, self._out_of_scan(scope, outer, node, parts)
        raise UnreachableError(f"inside the body of {node.op_type}")

    def _out_of_branch(
        self, scope: Scope, node: ir.Node, parts: Sequence[Part]
    ) -> tuple[Part, ...]:
        before = len(scope.graph.outputs)
        for branch in bodies(node):
            if branch is scope.graph:
                branch.outputs.extend(part.value for part in parts)
            else:
                absent = [self.constant(branch, part.join.neutral(part.dtype)) for part in parts]
                branch.outputs.extend(absent)
        return self._extended(node, before, parts)

    def _out_of_loop(
        self, scope: Scope, outer: Scope, node: ir.Node, parts: Sequence[Part]
    ) -> tuple[Part, ...]:
        body = scope.graph
        states = len(body.inputs) - 2
        initial: list[ir.Value] = []
        for position, part in enumerate(parts):
            before = self._output("before", part.dtype)
            before.shape = ir.Shape([None])
            body.inputs.append(before)
            if part.join is Join.CONCAT:
                after = self.add(body, "Concat", [before, part.value], part.dtype, axis=0)
            else:
                after = self.add(body, part.join.value, [before, part.value], part.dtype)
            body.outputs.insert(1 + states + position, after)
            start = self._output("start", part.dtype)
            tensor = ir.AttrTensor("value", part.join.neutral(part.dtype))
            outer.graph.insert_before(node, ir.Node("", "Constant", [], [tensor], outputs=[start]))
            initial.append(start)
        return self._with_states(outer, node, states, initial, parts)

    def _with_states(
        self,
        outer: Scope,
        node: ir.Node,
        states: int,
        initial: Sequence[ir.Value],
        parts: Sequence[Part],
    ) -> tuple[Part, ...]:
        """Put another Loop in a node's place, with more states before its scan outputs."""
        old = list(node.outputs)
        copies = [self._copied(value) for value in old]
        while len(copies) < states:
            copies.append(ir.Value(name=""))
        grown = [self._output("carried", part.dtype) for part in parts]
        outputs = [*copies[:states], *grown, *copies[states:]]
        inputs = [*node.inputs, *[None] * (2 - len(node.inputs)), *initial]
        attributes = list(node.attributes.values())
        loop = ir.Node(
            node.domain, node.op_type, inputs, attributes, outputs=outputs, name=node.name
        )
        graph = outer.graph
        graph.insert_before(node, loop)
        for value, copied in zip(old, copies, strict=False):
            _replace(graph, value, copied)
        graph.remove(node, safe=True)
        for body in bodies(loop):
            self._owners[id(body)] = loop
        known = self._values.get(id(graph), {})
        known.update({value.name: value for value in copies if value.name})
        return tuple(
            Part(value, part.join, part.dtype) for value, part in zip(grown, parts, strict=True)
        )

    def _copied(self, value: ir.Value) -> ir.Value:
        return ir.Value(name=value.name, type=value.type, shape=value.shape)

    def _out_of_scan(
        self, scope: Scope, outer: Scope, node: ir.Node, parts: Sequence[Part]
    ) -> tuple[Part, ...]:
        for name in ("scan_output_axes", "scan_output_directions"):
            given = node.attributes.get_ints(name)
            if given is not None:
                node.attributes[name] = ir.AttrInt64s(name, [*given, *[0] * len(parts)])
        before = len(scope.graph.outputs)
        scope.graph.outputs.extend(part.value for part in parts)
        stacked = self._extended(node, before, parts)
        joined = []
        for part in stacked:
            flat = self.flat(outer.graph, part.value, part.dtype)
            joined.append(Part(self._over_all(outer.graph, flat, part), part.join, part.dtype))
        return tuple(joined)

    def _over_all(self, graph: ir.Graph, flat: ir.Value, part: Part) -> ir.Value:
        reduction = {Join.MIN: "ReduceMin", Join.MAX: "ReduceMax", Join.SUM: "ReduceSum"}
        if part.join is Join.CONCAT:
            return flat
        return self.add(graph, reduction[part.join], [flat], part.dtype, keepdims=1)

    def flat(self, graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Make a value one-dimensional."""
        shape = self.constant(graph, ir.Tensor(np.array([-1], np.int64)))
        return self.add(graph, "Reshape", [value, shape], dtype)


def _replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, new)
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new
