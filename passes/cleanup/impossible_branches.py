"""If nodes of which one branch cannot run, because what follows could not take its result.

Exporters write out both readings of an operator that adapts to the rank of its input, say an LSTM
with and without batches, and a test of the rank. What follows the If may need one rank: LSTM takes
three axes, and Squeeze and Unsqueeze before it say how many that were. A branch whose result always
has another rank would end in an error, in every run that takes it; so no run takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import is_op
from graphopt.rewrite.shapes import Shapes
from passes.cleanup.branches import inline_branch
from passes.cleanup.sites import ints_setting, place

_BRANCHES = ("then_branch", "else_branch")
_RANK_KEPT = ("Cast", "Clip", "Identity", "Relu", "Sigmoid", "Sqrt", "Tanh", "Transpose")
_RECURRENT_INPUTS = {
    "GRU": {0: 3, 5: 3},
    "LSTM": {0: 3, 5: 3, 6: 3},
    "RNN": {0: 3, 5: 3},
}
"""Ranks of data and initial states: (steps, batch, features) and (directions, batch, units)."""

_MOST_STEPS = 16
"""How far a rank is followed from node to node."""


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per If with a branch that cannot run: the other one takes its place."""
    shapes = Shapes.of(model)
    for scope in scopes(model):
        for node in scope.graph:
            branch = _only_possible(node, shapes) if is_op(node, "If") else None
            if branch is not None:
                yield Rewrite(
                    place(scope, node),
                    "the other branch gives a rank that what follows cannot take",
                    partial(inline_branch, scope, node, branch, model),
                )


def _only_possible(node: ir.Node, shapes: Shapes) -> ir.Graph | None:
    attributes = [node.attributes.get(name) for name in _BRANCHES]
    if any(attribute is None or attribute.is_ref() for attribute in attributes):
        return None
    branches = [attribute.as_graph() for attribute in attributes if attribute is not None]
    possible = [branch for branch in branches if _is_possible(node, branch, shapes)]
    return possible[0] if len(possible) == 1 else None


def _is_possible(node: ir.Node, branch: ir.Graph, shapes: Shapes) -> bool:
    for output, result in zip(node.outputs, branch.outputs, strict=True):
        needed, given = _needed_rank(output, shapes), _possible_ranks(result, shapes)
        if needed is not None and given is not None and needed not in given:
            return False
    return True


def _needed_rank(value: ir.Value, shapes: Shapes, steps: int = _MOST_STEPS) -> int | None:
    """Return the rank that the nodes behind a value need it to have, or else fail.

    Only nodes of the same graph count: those in bodies need not run.
    """
    producer = value.producer()
    for user, index in value.uses():
        if producer is None or user.graph is not producer.graph or steps == 0:
            continue
        needed = _input_rank(user, index, shapes)
        if needed is None and index == 0 and user.outputs:
            change = _rank_change(user)
            behind = None if change is None else _needed_rank(user.outputs[0], shapes, steps - 1)
            needed = None if behind is None or change is None else behind - change
        if needed is not None:
            return needed
    return None


def _input_rank(node: ir.Node, index: int, shapes: Shapes) -> int | None:
    if is_op(node, *_RECURRENT_INPUTS):
        return _RECURRENT_INPUTS[node.op_type].get(index)
    if is_op(node, "Gemm") and index < 2:
        return 2
    return (
        shapes.rank(node.inputs[1]) if is_op(node, "Conv", "ConvTranspose") and index == 0 else None
    )


def _possible_ranks(
    value: ir.Value, shapes: Shapes, steps: int = _MOST_STEPS
) -> frozenset[int] | None:
    """Return the ranks that a value may have; None where anything is possible."""
    known, producer = shapes.rank(value), value.producer()
    if known is not None:
        return frozenset({known})
    if producer is None or steps == 0:
        return None
    if is_op(producer, "If"):
        return _either(producer, producer.outputs.index(value), shapes, steps)
    change, data = _rank_change(producer), producer.inputs[0] if producer.inputs else None
    before = None if change is None or data is None else _possible_ranks(data, shapes, steps - 1)
    if before is None or change is None:
        return None
    return frozenset(rank + change for rank in before)


def _either(node: ir.Node, index: int, shapes: Shapes, steps: int) -> frozenset[int] | None:
    ranks: frozenset[int] = frozenset()
    for name in _BRANCHES:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref():
            return None
        given = _possible_ranks(attribute.as_graph().outputs[index], shapes, steps - 1)
        if given is None:
            return None
        ranks |= given
    return ranks


def _rank_change(node: ir.Node) -> int | None:
    """Return how many axes the output has more than the first input."""
    if is_op(node, *_RANK_KEPT):
        return 0
    if not is_op(node, "Squeeze", "Unsqueeze"):
        return None
    axes = ints_setting(node, "axes", 1)
    if axes is None:
        return None
    return len(axes) if node.op_type == "Unsqueeze" else -len(axes)
