"""One node of tf2onnx's graph, written anew in operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.runtime.feeds import Array

Handler = Callable[[Any, Any, str, Any], None]
"""What `process_tf_graph` takes: its graph, the node, the node's name, and arguments."""


_CHOSEN_AS = {
    ir.DataType.BOOL: ir.DataType.UINT8,
    ir.DataType.INT8: ir.DataType.INT32,
    ir.DataType.INT16: ir.DataType.INT32,
    ir.DataType.UINT16: ir.DataType.INT32,
    ir.DataType.UINT32: ir.DataType.INT64,
    ir.DataType.UINT64: ir.DataType.INT64,
}
"""Types that ONNX Runtime's Where does not take, and those that hold the same numbers."""


class Rewriting:
    """Takes a node out of the graph, and makes others that compute its first output.

    Args:
        graph: tf2onnx's.
        node: It is removed.

    Attributes:
        inputs: Names of what the node read.
        dtype: ONNX's type of its first output.
    """

    def __init__(self, graph: Any, node: Any) -> None:
        self._graph, self._name, self._output = graph, node.name, node.output[0]
        self._shape = graph.get_shape(self._output)
        self.inputs: list[str] = list(node.input)
        self.dtype: int = graph.get_dtype(self._output)
        graph.remove_node(node.name)

    def made(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Make a node, and return the name of its output."""
        found: str = self._graph.make_node(operator, list(inputs), attr=attributes).output[0]
        return found

    def constant(self, array: Array) -> str:
        """Make a constant, and return its name."""
        from tf2onnx import utils

        found: str = self._graph.make_const(utils.make_name("constant"), array).output[0]
        return found

    def number(self, size: float, of: str | None = None) -> str:
        """Make a scalar of the type of a value; None: of the node's first output."""
        from tf2onnx import utils

        dtype = self.dtype if of is None else self._graph.get_dtype(of)
        return self.constant(np.array(size, utils.map_onnx_to_numpy_type(dtype)))

    def cast(self, value: str, dtype: ir.DataType) -> str:
        """Make a value of another type, where it has another."""
        if self._graph.get_dtype(value) == dtype:
            return value
        found = self.made("Cast", value, to=int(dtype))
        self._graph.set_dtype(found, int(dtype))
        return found

    def unsqueezed(self, value: str, axis: int) -> str:
        """Give a value an axis of size 1."""
        from tf2onnx.graph_builder import GraphBuilder

        found: str = GraphBuilder(self._graph).make_unsqueeze({"data": value, "axes": [axis]})
        return found

    def rank(self, value: str) -> int | None:
        """Return how many dimensions a value has, where tf2onnx knows."""
        found: int | None = self._graph.get_rank(value)
        return found

    def known(self, value: str) -> Array | None:
        """Return what a constant holds; None: it is none."""
        node = self._graph.get_node_by_output(value)
        if node is None or not node.is_const():
            return None
        found: Array = np.asarray(node.get_tensor_value(as_list=False))
        return found

    def choose(self, condition: str, chosen: str, other: str) -> None:
        """Make the Where that computes what the old node did."""
        held_as = _CHOSEN_AS.get(ir.DataType(self.dtype))
        if held_as is None:
            self.end("Where", [condition, chosen, other])
            return
        held = [self.cast(value, held_as) for value in (chosen, other)]
        self.end("Cast", [self.made("Where", condition, *held)], to=self.dtype)

    def end(
        self, operator: str, inputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """Make the node that computes what the old one did, under its name."""
        self._graph.make_node(
            operator, list(inputs), attr=attributes, name=self._name, outputs=[self._output],
            dtypes=[self.dtype], shapes=[self._shape], domain=domain,
        )  # fmt: skip
