"""Which outputs of a model hold scores, so that it counts which one wins and not by how much."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import is_op

_PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Transpose", "Dropout")
_DECIDING = ("Softmax", "LogSoftmax")
_LINEAR = ("Gemm", "MatMul")
_LONGEST = 16


def score_outputs(model: ir.Model) -> frozenset[str]:
    """Return the names of outputs whose last axis holds the scores of classes.

    That is what a Softmax gives, and what a linear layer gives: logits. An embedding is
    normalized, pooled or squashed behind its last linear layer, as a rule.
    """
    return frozenset(
        output.name for output in model.graph.outputs if output.name and _holds_scores(output)
    )


def _holds_scores(output: ir.Value) -> bool:
    if output.dtype is not None and not output.dtype.is_floating_point():
        return False
    node = _producer(output)
    if node is None:
        return False
    if is_op(node, *_DECIDING):
        return True
    if is_op(node, "Add"):
        behind = (_producer(value) for value in node.inputs)
        return any(one is not None and is_op(one, *_LINEAR) for one in behind)
    return is_op(node, *_LINEAR)


def _producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value, behind those that only pass it on."""
    for _ in range(_LONGEST):
        node = None if value is None else value.producer()
        if node is None or not is_op(node, *_PASSING):
            return node
        value = node.inputs[0] if node.inputs else None
    return None
