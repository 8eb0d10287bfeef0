"""Runs the nodes of a graph, one after the other, on values of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from graphopt.errors import GraphoptError
from graphopt.model.scopes import bodies
from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value, tensor_of
from graphopt.training.operators import ON_NUMBERS, Operator, find

Contents = dict[ir.Value, Value]


class Plan:
    """What is known of a prepared model before it runs.

    Args:
        model: What `graphopt.training.prepare.prepared` returns.
    """

    def __init__(self, model: ir.Model) -> None:
        self._operators: dict[ir.Node, Operator] = {}
        self._dead_after: dict[ir.Node, list[ir.Value]] = {}
        self._captured: dict[ir.Graph, list[ir.Value]] = {}
        self._graph(model.graph)

    def operator(self, node: ir.Node) -> Operator:
        """Return what computes a node."""
        return self._operators[node]

    def dead_after(self, node: ir.Node) -> list[ir.Value]:
        """Return the values of the node's graph that nothing reads behind it."""
        return self._dead_after[node]

    def captured(self, body: ir.Graph) -> list[ir.Value]:
        """Return the values around a body that it or a body inside it reads."""
        return self._captured[body]

    def _graph(self, graph: ir.Graph) -> None:
        own = {*graph.inputs, *graph.initializers.values()}
        last: dict[ir.Value, ir.Node] = {}
        outer: dict[ir.Value, None] = {}
        for node in graph:
            operator = find(node)
            if operator is None:
                raise GraphoptError(f"nothing computes {node.op_type} in PyTorch")
            self._operators[node] = operator
            for value in self._read(node):
                if value in own:
                    last[value] = node
                else:
                    outer[value] = None
            own.update(node.outputs)
            last.update((value, node) for value in node.outputs)
        outer.update((value, None) for value in graph.outputs if value not in own)
        self._captured[graph] = list(outer)
        kept = {*graph.outputs, *graph.initializers.values()}
        self._dead_after.update((node, []) for node in graph)
        for value, node in last.items():
            if value not in kept:
                self._dead_after[node].append(value)

    def _read(self, node: ir.Node) -> Iterator[ir.Value]:
        yield from (value for value in node.inputs if value is not None)
        for body in bodies(node):
            self._graph(body)
            yield from self._captured[body]


class Execution:
    """One run of a model.

    Args:
        plan: What is known of the model.
        contents: What each value holds that is seen from the graph which runs.
        device: Where tensors are made that no input says a device for.
    """

    def __init__(self, plan: Plan, contents: Contents, device: torch.device | None) -> None:
        self._plan, self._contents, self._device = plan, contents, device

    def run(self, body: ir.Graph, inputs: Sequence[Value]) -> list[Value]:
        """Run a graph, and return its outputs.

        Args:
            body: The main graph, or a body of a node that runs now.
            inputs: One for each of its inputs.

        Raises:
            GraphoptError: An operator cannot be computed.
        """
        contents = dict(self._contents)
        contents.update(zip(body.inputs, inputs, strict=True))
        bodies_of = Execution(self._plan, contents, self._device)
        for node in body:
            bodies_of._step(node)
            for value in self._plan.dead_after(node):
                contents.pop(value, None)
        return [contents[value] for value in body.outputs]

    def captured(self, body: ir.Graph) -> list[ir.Value]:
        """Return the values around a body that it reads, in the order in which it does."""
        return self._plan.captured(body)

    def inside(self, values: Mapping[ir.Value, Value]) -> Execution:
        """Let bodies see other contents of some values around them."""
        return Execution(self._plan, {**self._contents, **values}, self._device)

    def value(self, value: ir.Value) -> Value:
        """Return what a value around the bodies holds now."""
        return self._contents[value]

    def _step(self, node: ir.Node) -> None:
        inputs = [None if each is None else self._contents[each] for each in node.inputs]
        call = Call(node, self, self._device)
        found = _computed(self._plan.operator(node), call, inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        # An operator may leave out outputs at the end that the node does not name either.
        self._contents.update(zip(node.outputs, outputs, strict=False))


def _computed(operator: Operator, call: Call, inputs: list[Value]) -> Any:
    try:
        found = _on_numbers(call, inputs)
        return _on_tensors(operator, call, inputs) if found is NotImplemented else found
    except GraphoptError as error:
        if str(call) in error.cause:
            raise
        raise call.refused(error.cause, error.fix) from error
    except Exception as error:
        # Its type is PyTorch's, and tells torch.export what to do; the place is not in it.
        error.add_note(f"computing {call}")
        raise


def _on_numbers(call: Call, inputs: list[Value]) -> Any:
    """Compute where all inputs are numbers; NotImplemented: tensors are to be used."""
    given = [each for each in inputs if each is not None]
    if not given or call.node.domain or not all(isinstance(each, Numbers) for each in given):
        return NotImplemented
    function = ON_NUMBERS.get(call.node.op_type)
    return NotImplemented if function is None else function(call, *inputs)


def _on_tensors(operator: Operator, call: Call, inputs: list[Value]) -> Any:
    device = next((each.device for each in inputs if isinstance(each, torch.Tensor)), call.device)
    ready = [
        tensor_of(each, device) if isinstance(each, Numbers) and not operator.keeps(index) else each
        for index, each in enumerate(inputs)
    ]
    return operator.function(call, *ready)
