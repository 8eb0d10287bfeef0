"""Pooling over batch and channels, too, which ONNX Runtime does in three dimensions at most."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt.model import scopes
from graphopt.rewrite.names import Names

_MOST = 3


def fit_pools(model: ir.Model) -> None:
    """Pool over the inner dimensions alone, where the others have windows of one.

    jax2onnx puts two dimensions before an array, and pools over all that it had. With the channels
    in front that is a pool as ONNX has it.

    Args:
        model: As jax2onnx writes it. It is edited.
    """
    for scope in scopes(model):
        for node in list(scope.graph):
            if node.op_type == "MaxPool" and node.domain == "":
                _fit(model, scope.graph, node)
    Names.forget(model)


def _fit(model: ir.Model, graph: Any, node: ir.Node) -> None:
    windows = list(node.attributes.get_ints("kernel_shape", []))
    rank = len(windows)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    pads = list(node.attributes.get_ints("pads", [0] * (2 * rank)))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    users = [user for user, _ in node.outputs[0].uses()]
    taken = _before_unsqueezing(node)
    if rank <= _MOST or taken is None:
        return
    is_outer = all(
        windows[at] == strides[at] == 1 and pads[at] == pads[rank + at] == 0 for at in (0, rank - 1)
    )
    if not is_outer or [user.op_type for user in users] != ["Squeeze"]:
        return
    names = Names.of(model)

    def add(op_type: str, value: ir.Value, **attributes: Any) -> ir.Value:
        made = ir.node(op_type, [value], attributes=attributes)
        made.name = made.outputs[0].name = names.fresh(f"{node.name}_{op_type}")
        made.outputs[0].type = taken.type
        graph.insert_before(node, made)
        return made.outputs[0]

    first = add("Transpose", taken, perm=[0, rank - 1, *range(1, rank - 1)])
    pooled = add(
        "MaxPool",
        first,
        kernel_shape=windows[1:-1],
        strides=strides[1:-1],
        pads=[*pads[1 : rank - 1], *pads[rank + 1 : -1]],
        dilations=dilations[1:-1],
    )
    last = add("Transpose", pooled, perm=[0, *range(2, rank), 1])
    squeezed = users[0].outputs[0]
    last.shape, last.type = squeezed.shape, squeezed.type
    for index, value in enumerate(graph.outputs):
        if value is squeezed:
            graph.outputs[index] = last
    ir.convenience.replace_all_uses_with(squeezed, last)


def _before_unsqueezing(node: ir.Node) -> ir.Value | None:
    """What two Unsqueeze made the input of."""
    value = node.inputs[0]
    for _ in range(2):
        made = None if value is None else value.producer()
        if made is None or made.op_type != "Unsqueeze":
            return None
        value = made.inputs[0]
    return value
