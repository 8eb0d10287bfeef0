"""Attributes and small constants of nodes that name sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import add_constant, constant, integers
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import remove_unread


class Parameters:
    """Gives nodes new constants to read; others that read the old ones keep these.

    Args:
        model: Where they stand.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def integers(self, node: ir.Node, index: int, numbers: Sequence[int]) -> None:
        """Let a node read a list of integers as an input, of the type it has read there so far."""
        before = node.inputs[index] if index < len(node.inputs) else None
        if integers(before) == tuple(numbers):
            return
        old = constant(before)
        dtype = ir.DataType.INT64 if old is None else old.dtype
        tensor = ir.tensor(np.asarray(numbers, dtype.numpy()))
        base = (before.name if before is not None else None) or f"{node.name or node.op_type}_sizes"
        name = Names.of(self._model).fresh(f"{base}_pruned")
        value = add_constant(node, name, tensor, in_function=False)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
        remove_unread([before])
