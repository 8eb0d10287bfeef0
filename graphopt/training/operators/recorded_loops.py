"""What torch.export records for loops that data ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._higher_order_ops.while_loop import while_loop_op
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value, integer_of, number, tensor_of
from graphopt.training.operators.recorded_branches import Surroundings, apart, own

_WHILE: Any = while_loop_op
_CHECK: Any = torch._check

_MOST_COLLECTED = 1 << 20
"""A loop of that many steps has no end of its own; room for its outputs is not kept."""


def recorded_loop(
    call: Call, limit: Value, condition: Value, given: Sequence[Value]
) -> tuple[Value, ...]:
    """Record a loop, whose outputs of each step go where they are kept room for.

    Args:
        call: The Loop.
        limit: How often it runs at most; None: as often as the condition holds.
        condition: Whether it runs at all; None: it does.
        given: What it carries from step to step, before the first one.

    Raises:
        GraphoptError: What it carries changes its shape or is a list, or the outputs of its
            steps have no bound.
    """
    body = call.graph("body")
    around = Surroundings.of(call.bodies, body)
    carried = [_carried(call, each) for each in given]
    room = _room(call, limit, carried)
    count = len(carried)
    last = None if limit is None else _scalar(limit, torch.int64, call)
    start = torch.zeros((), dtype=torch.int64, device=call.device)
    goes_on = _scalar(number(True) if condition is None else condition, torch.bool, call)
    bound = () if last is None else (last,)

    def lasts(step: torch.Tensor, held: torch.Tensor, *rest: Any) -> torch.Tensor:
        return held.clone() if last is None else held & (step < rest[count + len(room)])

    def once(step: torch.Tensor, held: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        now, kept = rest[:count], rest[count : count + len(room)]
        bodies = around.inside(rest[count + len(room) + len(bound) :])
        again, *found = [own(call, each) for each in bodies.run(body, [step, held, *now])]
        for before, after in zip(now, found, strict=False):
            _check_same(call, before, after)
        written = [
            whole.index_copy(0, step.reshape(1), one.unsqueeze(0))
            for whole, one in zip(kept, found[count:], strict=True)
        ]
        return (step + 1, again.reshape(()), *found[:count], *written)

    state = (start, goes_on, *carried, *room)
    operands = apart((*state, *bound, *around.operands))
    steps, _, *outputs = _WHILE(lasts, once, operands[: len(state)], operands[len(state) :])
    if not room:
        return tuple(outputs)
    done = steps.item()
    _CHECK(done >= 0)
    _CHECK(done <= room[0].shape[0])
    return (*outputs[:count], *(whole.narrow(0, 0, done) for whole in outputs[count:]))


def _carried(call: Call, value: Value) -> torch.Tensor:
    if not isinstance(value, torch.Tensor | Numbers):
        raise call.refused(
            "data ends it, and it carries a list, which torch.export has no operator for",
            "give it a trip count that is a constant",
        )
    return tensor_of(value, call.device)


def _scalar(value: Value, dtype: torch.dtype, call: Call) -> torch.Tensor:
    return tensor_of(value, call.device).reshape(()).to(dtype)


def _room(call: Call, limit: Value, carried: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make what the outputs of each step are written to."""
    body = call.graph("body")
    if len(body.outputs) == 1 + len(carried):
        return []
    size: Any = None
    if limit is not None:
        size = integer_of(limit) if isinstance(limit, Numbers) else limit.reshape(()).item()
    if size is None or (isinstance(size, int) and size > _MOST_COLLECTED):
        raise call.refused(
            "data ends it, and it collects an output in each of its steps without a bound",
            "give it a trip count",
        )
    if not isinstance(size, int):
        _CHECK(size >= 0)
    # Nothing reads what this run computes: it only tells the shapes.
    step = torch.zeros((), dtype=torch.int64, device=call.device)
    found = call.bodies.run(body, [step, step == 0, *carried])[1 + len(carried) :]
    tensors = [tensor_of(each, call.device) for each in found]
    return [each.new_zeros((size, *each.shape)) for each in tensors]


def _check_same(call: Call, before: torch.Tensor, after: torch.Tensor) -> None:
    same = len(before.shape) == len(after.shape) and all(
        statically_known_true(one == other)
        for one, other in zip(before.shape, after.shape, strict=True)
    )
    if not same:
        raise call.refused(
            "data ends it, and what it carries changes its shape from "
            f"{tuple(before.shape)} to {tuple(after.shape)}",
            "give it a trip count that is a constant, or let it carry one shape",
        )
