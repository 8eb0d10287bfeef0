"""Indices below zero or beyond the end: as JAX takes them, which ONNX takes otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.model import scopes
from graphopt.rewrite.names import Names


def fit_indices(model: ir.Model) -> None:
    """Let classes and starts that are computed mean what they mean in JAX.

    `jax.nn.one_hot` gives zeros for a class below zero, where OneHot counts from the last one.
    `jax.lax.dynamic_slice` moves a start so that the slice is within the array, where Slice gives
    less, and counts a start below zero from the end.

    Args:
        model: As jax2onnx writes it. It is edited.
    """
    for scope in scopes(model):
        for node in list(scope.graph):
            if node.op_type == "OneHot" and node.domain == "":
                _Before(model, scope.graph, node).ignore_classes_below_zero()
            elif _is_dynamic_slice(node):
                _Before(model, scope.graph, node).keep_within()
    Names.forget(model)


def _is_dynamic_slice(node: ir.Node) -> bool:
    """Whether a node takes from starts up to the sums of starts and sizes, along all axes."""
    if node.op_type != "Slice" or node.domain != "" or len(node.inputs) < 3:
        return False
    starts, ends = node.inputs[1:3]
    added = None if ends is None else ends.producer()
    return added is not None and added.op_type == "Add" and added.inputs[0] is starts


class _Before:
    """Writes nodes in front of another.

    Args:
        model: Where names are of.
        graph: Where the node is.
        node: What they are written for.
    """

    def __init__(self, model: ir.Model, graph: Any, node: ir.Node) -> None:
        self._names, self._graph, self._node = Names.of(model), graph, node

    def ignore_classes_below_zero(self) -> None:
        """Let them be beyond the last class."""
        given = self._node.inputs[0]
        assert given is not None
        kind = given.dtype or ir.DataType.INT64
        kept = kind.numpy() if kind in (ir.DataType.INT32, ir.DataType.INT64) else np.dtype("i8")
        classes = given if kind.numpy() == kept else self._cast(given, kept)
        below = self._add("Less", classes, self._constant(np.array(0, kept)))
        beyond = self._constant(np.array(np.iinfo(kept).max, kept))
        self._node.replace_input_with(0, self._add("Where", below, beyond, classes))

    def keep_within(self) -> None:
        """Move the starts of a slice, and with them its ends."""
        data, starts, ends = self._node.inputs[:3]
        added = None if ends is None else ends.producer()
        assert added is not None
        sizes = added.inputs[1]
        last = self._add("Sub", self._add("Shape", data), sizes)
        zero = self._constant(np.array(0, np.int64))
        moved = self._add("Max", self._add("Min", starts, last), zero)
        self._node.replace_input_with(1, moved)
        self._node.replace_input_with(2, self._add("Add", moved, sizes))

    def _cast(self, value: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
        return self._add("Cast", value, to=int(ir.DataType.from_numpy(dtype)))

    def _constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        return self._add("Constant", value=ir.tensor(array))

    def _add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes)
        node.name = node.outputs[0].name = self._names.fresh(f"{self._node.name}_{op_type}")
        self._graph.insert_before(self._node, node)
        return node.outputs[0]
