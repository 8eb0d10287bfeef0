"""What torch.export records for branches that data chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch._higher_order_ops.cond import cond_op
from torch.multiprocessing.reductions import StorageWeakRef

from graphopt.training.call import Bodies, Call
from graphopt.training.numbers import Numbers, Value, tensor_of

_MEMORY: Any = StorageWeakRef
_COND: Any = cond_op
# torch.cond would let Dynamo read the interpreter of ONNX that runs the branches.


@dataclass(frozen=True)
class Surroundings:
    """What bodies see around them, as operands of an operator that records the bodies.

    Args:
        bodies: Runs them.
        held: The values that they read.
    """

    bodies: Bodies
    held: dict[ir.Value, Value]

    @classmethod
    def of(cls, bodies: Bodies, *graphs: ir.Graph) -> Surroundings:
        """Collect what some bodies see."""
        read = dict.fromkeys(value for graph in graphs for value in bodies.captured(graph))
        return cls(bodies, {value: bodies.value(value) for value in read})

    @property
    def operands(self) -> tuple[Any, ...]:
        """Tensors and symbolic numbers; all else is known."""
        return apart(leaf for value in self.held.values() for leaf in _leaves(value))

    def inside(self, operands: Sequence[Any]) -> Bodies:
        """Let the bodies see other operands."""
        given = iter(operands)
        seen = {value: _replaced(content, given) for value, content in self.held.items()}
        return self.bodies.inside(seen)


def apart(operands: Iterable[Any]) -> tuple[Any, ...]:
    """Copy the tensors that share memory with one before, which recorded operators refuse."""
    seen = set()
    found = []
    for each in operands:
        if isinstance(each, torch.Tensor):
            memory = _MEMORY(each.untyped_storage())
            operand = each.clone() if memory in seen else each
            seen.add(memory)
            found.append(operand)
        else:
            found.append(each)
    return tuple(found)


def _is_operand(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)


def _leaves(value: Value) -> Iterator[Any]:
    if isinstance(value, Numbers):
        yield from filter(_is_operand, value.array.reshape(-1).tolist())
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif _is_operand(value):
        yield value


def _replaced(value: Value, given: Iterator[Any]) -> Value:
    if isinstance(value, Numbers):
        array = np.empty(value.array.shape, dtype=object)
        for at, number in np.ndenumerate(value.array):
            array[at] = next(given) if _is_operand(number) else number
        return Numbers(array, value.dtype)
    if isinstance(value, list):
        return [_replaced(each, given) for each in value]
    return next(given) if _is_operand(value) else value


def recorded_branches(
    call: Call, condition: torch.Tensor | torch.SymBool, then: ir.Graph, otherwise: ir.Graph
) -> tuple[Value, ...]:
    """Record both branches of an If, and the choice.

    Args:
        call: The If.
        condition: Of shape (), or what a symbolic size tells.
        then: The branch for true.
        otherwise: The other one.

    Raises:
        GraphoptError: A branch gives something else than tensors.
    """
    around = Surroundings.of(call.bodies, then, otherwise)

    def branch(body: ir.Graph) -> Callable[..., tuple[torch.Tensor, ...]]:
        def run(*operands: Any) -> tuple[torch.Tensor, ...]:
            try:
                outputs = around.inside(operands).run(body, [])
            except RuntimeError as error:
                # A branch may fit no input that would take the other one.
                first, *_ = str(error).splitlines() or [type(error).__name__]
                name = body.name or "one"
                raise call.refused(
                    f"data chooses its branch, and {name} cannot be recorded: {first}",
                    "make its condition a constant",
                ) from error
            return tuple(own(call, each) for each in outputs)

        return run

    outputs = _COND(condition, branch(then), branch(otherwise), around.operands)
    return tuple(outputs)


def own(call: Call, value: Value) -> torch.Tensor:
    """Return a tensor that shares nothing with an operand, as a recorded body has to."""
    if not isinstance(value, torch.Tensor | Numbers):
        raise call.refused(
            "data chooses between lists, which torch.export has no operator for",
            "let its branches give tensors",
        )
    return tensor_of(value, call.device).clone()
