"""Two models of one architecture, matched by structure.

Both graphs are walked in parallel from the outputs to the inputs. Operators, attributes, operand
positions, bodies and functions must agree; names, the order of nodes, Identity nodes, unread nodes
and whether a constant is an initializer or a Constant node are free. What corresponds is told by
seats: the places where constants are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

import onnx
import onnx_ir as ir

from graphopt.ensembles.soups.attributes import difference
from graphopt.ensembles.soups.constants import (
    is_mixable,
    is_setting,
    reads_quantized,
    same_contents,
    shown,
)
from graphopt.errors import GraphoptError
from graphopt.model.scopes import bodies
from graphopt.rewrite.constants import ONNX_DOMAINS, held, is_op, opset

FIX = "give members of one architecture, or combine their outputs: mean(a, b)"


@dataclass(frozen=True)
class Seat:
    """Where a constant is read.

    Args:
        reader: A node, or a graph that returns the constant.
        index: Of the input of the node, or of the output of the graph.
    """

    reader: ir.Node | ir.Graph
    index: int


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Args:
        name: What messages call it.
        model: Its nodes and weights; only read.
    """

    name: str
    model: ir.Model


Weights = dict[Seat, tuple[ir.Value, ir.TensorProtocol]]
"""By the seats in the first model: the first's constant and the second's tensor."""


def match(first: Side, second: Side) -> Weights:
    """Find, for every float constant that the first model reads, its counterpart in the second.

    Both must be in the same version of ONNX's own operators.

    Raises:
        GraphoptError: The architectures differ. It tells the first difference, from the outputs.
    """
    walk = _Walk(first, second)
    walk.run()
    return walk.weights


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two values at the same place; None where an optional input is left out."""

    first: ir.Value | None
    second: ir.Value | None
    seat: Seat
    other: ir.Node | ir.Graph


@dataclass
class _Walk:
    first: Side
    second: Side
    weights: Weights = field(default_factory=dict)
    pending: deque[_Pair] = field(default_factory=deque)
    seen: set[tuple[ir.Node, ir.Node]] = field(default_factory=set)
    formals: set[tuple[ir.Value, ir.Value]] = field(default_factory=set)
    called: set[tuple[ir.Graph, ir.Graph]] = field(default_factory=set)
    inputs: dict[ir.Value, ir.Value] = field(default_factory=dict)
    taken: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        """Walk both models."""
        left, right = self.first.model.graph, self.second.model.graph
        for index, (a, b) in enumerate(self._outputs(left, right)):
            self.pending.append(_Pair(a, b, Seat(left, index), right))
        while self.pending:
            self._visit(self.pending.popleft())
        self._match_unread_inputs()

    def _outputs(self, left: ir.Graph, right: ir.Graph) -> Iterable[tuple[ir.Value, ir.Value]]:
        if len(left.outputs) != len(right.outputs):
            self._fail("outputs", f"{_names(left.outputs)}", f"{_names(right.outputs)}")
        by_name = {value.name: value for value in right.outputs}
        if by_name.keys() == {value.name for value in left.outputs}:
            return [(value, by_name[value.name]) for value in left.outputs]
        return zip(left.outputs, right.outputs, strict=True)

    def _visit(self, pair: _Pair) -> None:
        first, second = _behind_identity(pair.first), _behind_identity(pair.second)
        if first is None or second is None:
            if first is not second:
                self._fail(f"input {pair.seat.index} of {_at(pair)}", _what(first), _what(second))
            return
        left, right = held(first), held(second)
        if left is not None and right is not None:
            self._constants(pair, first, left, right)
        elif left is not None or right is not None:
            self._fail(f"input {pair.seat.index} of {_at(pair)}", _what(first), _what(second))
        else:
            self._computed(pair, first, second)

    def _constants(
        self, pair: _Pair, first: ir.Value, left: ir.TensorProtocol, right: ir.TensorProtocol
    ) -> None:
        seat, where = pair.seat, f"input {pair.seat.index} of {_at(pair)}"
        if left.dtype != right.dtype:
            self._fail(f"{where}, type", left.dtype.name, right.dtype.name)
        if tuple(left.shape.numpy()) != tuple(right.shape.numpy()):
            shapes = [str(list(tensor.shape.numpy())) for tensor in (left, right)]
            self._fail(f"{where}, shape", *shapes)
        if is_mixable(left) and not is_setting(seat.reader, seat.index):
            self._sit(seat, first, right)
        elif not same_contents(left, right):
            if reads_quantized(seat.reader) or left.dtype.bitwidth < 8:
                raise GraphoptError(
                    f"members {self.first.name} and {self.second.name} cannot be averaged:"
                    f" {where} is a quantized weight ({left.dtype.name}), whose integers are not"
                    " its numbers",
                    fix="average the float models and quantize the result, or run 'dequantize' on"
                    " each first",
                )
            self._fail(where, shown(left), shown(right))

    def _sit(self, seat: Seat, first: ir.Value, right: ir.TensorProtocol) -> None:
        before = self.weights.setdefault(seat, (first, right))[1]
        if before is not right and not same_contents(before, right):
            at = _named(seat.reader)
            self._fail(f"weights at {at}", "one, read by all", "several that differ")

    def _computed(self, pair: _Pair, first: ir.Value, second: ir.Value) -> None:
        left, right = first.producer(), second.producer()
        if left is None or right is None:
            if left is not right or not self._same_input(first, second):
                self._fail(f"input {pair.seat.index} of {_at(pair)}", _what(first), _what(second))
            return
        if first.index() != second.index():
            places = [f"output {value.index()} of {_what(value)}" for value in (first, second)]
            self._fail(f"input {pair.seat.index} of {_at(pair)}", *places)
        if (left, right) not in self.seen:
            self.seen.add((left, right))
            self._nodes(pair, left, right)

    def _same_input(self, first: ir.Value, second: ir.Value) -> bool:
        if (first, second) in self.formals:
            return True
        if first.graph is not self.first.model.graph or second.graph is not self.second.model.graph:
            return False
        self._interface(first, second)
        return (
            self.inputs.setdefault(first, second) is second
            and self.taken.setdefault(second, first) is first
        )

    def _interface(self, first: ir.Value, second: ir.Value) -> None:
        where = f"input {first.name!r}"
        if first.dtype != second.dtype:
            self._fail(where, str(first.dtype), str(second.dtype))
        left, right = first.shape, second.shape
        if left is None or right is None:
            return
        known = [(a, b) for a, b in zip(left, right, strict=False)]
        if len(left) != len(right) or any(
            a != b for a, b in known if isinstance(a, int) and isinstance(b, int)
        ):
            self._fail(where, str(left), str(right))

    def _nodes(self, pair: _Pair, left: ir.Node, right: ir.Node) -> None:
        where = _both(left, right)
        functions = [
            side.model.functions.get(node.op_identifier())
            for side, node in ((self.first, left), (self.second, right))
        ]
        if functions[0] is not None and functions[1] is not None:
            self._bodies(where, functions[0].graph, functions[1].graph)
        elif functions[0] is not functions[1] or self._operator(left) != self._operator(right):
            self._fail(f"input {pair.seat.index} of {_at(pair)}", _operator(left), _operator(right))
        else:
            self._versions(left)
        found = difference(left, right, self._version(self.first, left.domain))
        if found is not None:
            name, a, b = found
            self._fail(f"{where}, attribute {name}", a, b)
        self._inner(where, left, right)
        a_inputs, b_inputs = _inputs(left), _inputs(right)
        if len(a_inputs) != len(b_inputs):
            self._fail(f"{where}, number of inputs", str(len(a_inputs)), str(len(b_inputs)))
        for index, (read, other) in enumerate(zip(a_inputs, b_inputs, strict=True)):
            self.pending.append(_Pair(read, other, Seat(left, index), right))

    def _operator(self, node: ir.Node) -> tuple[str, str, str]:
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        return domain, node.op_type, node.overload

    def _versions(self, node: ir.Node) -> None:
        versions = [self._version(side, node.domain) for side in (self.first, self.second)]
        since = [_since(node, version) for version in versions]
        if since[0] != since[1]:
            texts = [f"version {version}" for version in versions]
            self._fail(f"domain {node.domain or 'ai.onnx'} of {_named(node)}", *texts)

    def _version(self, side: Side, domain: str) -> int:
        if domain in ONNX_DOMAINS:
            return opset(side.model)
        return side.model.opset_imports.get(domain, 1)

    def _inner(self, where: str, left: ir.Node, right: ir.Node) -> None:
        a_bodies, b_bodies = list(bodies(left)), list(bodies(right))
        if len(a_bodies) != len(b_bodies):
            self._fail(f"{where}, bodies", str(len(a_bodies)), str(len(b_bodies)))
        for a, b in zip(a_bodies, b_bodies, strict=True):
            self._bodies(where, a, b)

    def _bodies(self, where: str, left: ir.Graph, right: ir.Graph) -> None:
        """Match two bodies, or two functions, by the positions of their inputs and outputs."""
        if (left, right) in self.called:
            return
        self.called.add((left, right))
        for kind, a, b in (
            ("inputs", left.inputs, right.inputs),
            ("outputs", left.outputs, right.outputs),
        ):
            if len(a) != len(b):
                self._fail(f"{where}, {kind} of its body", _names(a), _names(b))
        self.formals.update(zip(left.inputs, right.inputs, strict=True))
        for index, (made, other) in enumerate(zip(left.outputs, right.outputs, strict=True)):
            self.pending.append(_Pair(made, other, Seat(left, index), right))

    def _match_unread_inputs(self) -> None:
        left = [v for v in self.first.model.graph.inputs if self._is_left(v, self.inputs)]
        right = [v for v in self.second.model.graph.inputs if self._is_left(v, self.taken)]
        if len(left) != len(right):
            self._fail("inputs that nothing reads", _names(left), _names(right))

    @staticmethod
    def _is_left(value: ir.Value, matched: dict[ir.Value, ir.Value]) -> bool:
        return value not in matched and not value.is_initializer()

    def _fail(self, where: str, first: str, second: str) -> NoReturn:
        raise GraphoptError(
            f"member {self.second.name} has another architecture than {self.first.name}; seen from"
            f" the outputs, the first difference is at {where}: {first} in {self.first.name},"
            f" {second} in {self.second.name}",
            fix=FIX,
        )


def _behind_identity(value: ir.Value | None) -> ir.Value | None:
    while value is not None:
        producer = value.producer()
        if producer is None or not is_op(producer, "Identity"):
            break
        value = producer.inputs[0]
    return value


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    return inputs


def _since(node: ir.Node, version: int) -> int:
    try:
        return int(onnx.defs.get_schema(node.op_type, version, node.domain).since_version)
    except onnx.defs.SchemaError:
        return version


def _at(pair: _Pair) -> str:
    return _both(pair.seat.reader, pair.other)


def _both(left: ir.Node | ir.Graph, right: ir.Node | ir.Graph) -> str:
    names = (_named(left), _named(right))
    return names[0] if names[0] == names[1] else " / ".join(names)


def _named(reader: ir.Node | ir.Graph) -> str:
    if isinstance(reader, ir.Graph):
        return f"the outputs of {reader.name!r}" if reader.name else "the outputs"
    name = reader.name or next((value.name for value in reader.outputs if value.name), None)
    return f"{reader.op_type} {name!r}"


def _operator(node: ir.Node) -> str:
    domain = f"{node.domain}." if node.domain not in ONNX_DOMAINS else ""
    return f"{domain}{node.op_type}"


def _what(value: ir.Value | None) -> str:
    if value is None:
        return "left out"
    if held(value) is not None:
        return f"the constant {value.name!r}"
    producer = value.producer()
    return f"the input {value.name!r}" if producer is None else _operator(producer)


def _names(values: Iterable[ir.Value]) -> str:
    return ", ".join(repr(value.name) for value in values) or "none"
