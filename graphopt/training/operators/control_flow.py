"""Operators that run the graphs which they hold.

They run in Python. While torch.export records, what depends on data is recorded as torch.cond and
while_loop instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from graphopt.training.call import Call
from graphopt.training.moving import movable, moved
from graphopt.training.numbers import Numbers, Value, integer_of, number, tensor_of
from graphopt.training.operators.recorded_branches import recorded_branches
from graphopt.training.operators.recorded_loops import recorded_loop
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of


@operator("If", numbers=(0,))
def if_(call: Call, condition: Value) -> tuple[Value, ...]:
    """Run one of two graphs."""
    then, otherwise = call.graph("then_branch"), call.graph("else_branch")
    if isinstance(condition, Numbers):
        # A size that data tells is compared when the program runs.
        choice = condition.array.reshape(()).item()
        is_open = isinstance(choice, torch.SymBool) and bool(free_unbacked_symbols(choice))
    else:
        choice, is_open = condition.reshape(()).bool(), torch.compiler.is_exporting()
    if is_open:
        return recorded_branches(call, choice, then, otherwise)
    return tuple(call.bodies.run(then if _holds(condition) else otherwise, []))


def _holds(condition: Value) -> bool:
    if isinstance(condition, Numbers):
        return bool(condition.array.reshape(()).item())
    return bool(condition.reshape(()))


@operator("Loop", numbers=(-1,))
def loop(
    call: Call, limit: Value = None, condition: Value = None, *carried: Value
) -> tuple[Value, ...]:
    """Run a graph again and again, on what it returned the last time."""
    count = len(call.graph("body").inputs) - 2
    given = [*carried, *[None] * (count - len(carried))]
    if not torch.compiler.is_exporting():
        limit = None if limit is None else number(integer_of(limit))
        condition = None if condition is None else number(_holds(condition), torch.bool)
    found = _unrolled(call, limit, condition, given)
    if found is None:
        return recorded_loop(call, limit, condition, given)
    final, collected = found
    return (*final, *(_stacked(call, count + at, each) for at, each in enumerate(collected)))


def _unrolled(
    call: Call, limit: Value, condition: Value, given: Sequence[Value]
) -> tuple[list[Value], list[list[Value]]] | None:
    """Run a loop in Python; None: torch.export records, and data tells how often."""
    count = None if limit is None else _known_count(limit)
    if (limit is not None and count is None) or isinstance(condition, torch.Tensor):
        return None
    body = call.graph("body")
    carried = list(given)
    collected: list[list[Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
    step, goes_on = 0, condition is None or _holds(condition)
    while goes_on and (count is None or step < count):
        inputs = [number(step), number(True, torch.bool), *carried]
        held, *found = call.bodies.run(body, inputs)
        if isinstance(held, torch.Tensor) and torch.compiler.is_exporting():
            return None
        carried = found[: len(carried)]
        for each, output in zip(collected, found[len(carried) :], strict=True):
            each.append(output)
        step, goes_on = step + 1, _holds(held)
    return carried, collected


def _known_count(limit: Value) -> int | None:
    count = integer_of(limit) if isinstance(limit, Numbers) else None
    return count if isinstance(count, int) else None


@operator("Scan")
def scan(call: Call, *inputs: torch.Tensor) -> tuple[Value, ...]:
    """Run a graph on one slice of some tensors after the other, and on what it returned."""
    body = call.graph("body")
    count = call.integer("num_scan_inputs")
    states: list[Value] = list(inputs[: len(inputs) - count])
    scanned = inputs[len(states) :]
    given = call.integers("scan_input_axes", [0] * count)
    axes = [axis_of(axis, each.ndim) for axis, each in zip(given, scanned, strict=True)]
    backwards = call.integers("scan_input_directions", [0] * count)
    length = scanned[0].shape[axes[0]]
    if not isinstance(length, int):
        raise call.refused(
            "it scans an axis of dynamic size", "give that axis a fixed size in torch.export"
        )
    sliced = [
        each.unbind(axis)[:: -1 if is_backward else 1]
        for each, axis, is_backward in zip(scanned, axes, backwards, strict=True)
    ]
    collected: list[list[Value]] = [[] for _ in body.outputs[len(states) :]]
    for step in range(length):
        found = call.bodies.run(body, [*states, *(each[step] for each in sliced)])
        states = found[: len(states)]
        for each, output in zip(collected, found[len(states) :], strict=True):
            each.append(output)
    return (*states, *_scanned(call, collected, len(states)))


def _scanned(call: Call, collected: Sequence[list[Value]], first: int) -> list[torch.Tensor]:
    axes = call.integers("scan_output_axes", [0] * len(collected))
    backwards = call.integers("scan_output_directions", [0] * len(collected))
    outputs = []
    for at, (each, axis, is_backward) in enumerate(zip(collected, axes, backwards, strict=True)):
        stacked = _stacked(call, first + at, each[:: -1 if is_backward else 1])
        outputs.append(stacked.movedim(0, axis_of(axis, stacked.ndim)))
    return outputs


def _stacked(call: Call, output: int, values: Sequence[Value]) -> torch.Tensor:
    """Join what a body gave each time along a new first axis."""
    if not values:
        body: ir.Graph = call.graph("body")
        result = body.outputs[len(body.outputs) - call.outputs + output]
        sizes = [each if isinstance(each, int) else 0 for each in result.shape or ()]
        return torch.empty(0, *sizes, dtype=call.output_dtype(output), device=call.device)
    tensors = [tensor_of(each, call.device) for each in values]
    return moved(torch.stack([movable(each) for each in tensors]), tensors[0].dtype)


@operator("SequenceMap")
def sequence_map(call: Call, sequence: list[Value], *others: Any) -> tuple[list[Value], ...]:
    """Run a graph on each tensor of a list, and list what it gives."""
    body = call.graph("body")
    outputs: list[list[Value]] = [[] for _ in body.outputs]
    for at, first in enumerate(sequence):
        inputs = [first, *(each[at] if isinstance(each, list) else each for each in others)]
        for listed, found in zip(outputs, call.bodies.run(body, inputs), strict=True):
            listed.append(tensor_of(found, call.device))
    return tuple(outputs)
