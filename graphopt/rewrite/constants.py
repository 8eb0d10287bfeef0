"""What is known before a model runs: the tensor behind a value, and values made from tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.model.constants import ONNX_DOMAINS, held_tensor, is_op

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "ONNX_DOMAINS",
    "Array",
    "add_constant",
    "add_initializer",
    "array",
    "constant",
    "constant_node",
    "hold",
    "integers",
    "is_op",
    "nbytes",
    "opset",
    "scalar",
]


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor that a value always holds, whatever the model is fed; None if it varies.

    That is an initializer of any scope which the caller of the model cannot override (it is no
    graph input), or the output of a Constant node, whichever attribute holds its value. A Constant
    whose attribute refers to an attribute of its function varies.
    """
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    return None if producer is None else held_tensor(producer)


def held(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer, overridable or not, or of a Constant node."""
    return value.const_value if value.is_initializer() else constant(value)


def hold(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Let an initializer or the output of a Constant node hold another tensor."""
    if value.shape is not None:
        value.shape = _shape(tensor)
    producer = value.producer()
    if producer is None:
        tensor.name = value.name
        value.const_value = tensor
        return
    # A short form such as value_floats gives way to the form that holds any tensor.
    producer.attributes.clear()
    producer.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = None


def array(value: ir.Value | None) -> Array | None:
    """Return the contents of a constant as an array (memory-mapped where the tensor is)."""
    tensor = constant(value)
    return None if tensor is None else tensor.numpy()


def integers(value: ir.Value | None, *, at_most: int = 1024) -> tuple[int, ...] | None:
    """Return the contents of a small constant of integers, flattened; None for anything else.

    Args:
        value: A value, or None for an input that a node leaves out.
        at_most: The most elements that are read.
    """
    tensor = constant(value)
    if tensor is None or not tensor.dtype.is_integer() or tensor.size > at_most:
        return None
    return tuple(int(element) for element in tensor.numpy().reshape(-1))


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """Return the only element of a numeric constant of any rank as a Python number."""
    tensor = constant(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    element: float | int | bool = tensor.numpy().reshape(-1)[0].item()
    return element if isinstance(element, float | int | bool) else None


def nbytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor as it is stored."""
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(text) for text in tensor.numpy().reshape(-1))
    return int(tensor.nbytes)


def opset(model: ir.Model, graph: ir.Graph | ir.Function | None = None) -> int:
    """Version of ONNX's own operator set in a model, or in one of its functions."""
    imports = model.opset_imports if graph is None else (graph.opset_imports or model.opset_imports)
    return imports.get("", imports.get("ai.onnx", 1))


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add a constant to a graph, under a name that is free there (see `Names.fresh`).

    Not for the graph of a function, which has no initializers: see `constant_node`.
    """
    value = ir.Value(
        name=name,
        shape=_shape(tensor),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def constant_node(name: str, tensor: ir.TensorProtocol) -> ir.Node:
    """Make a Constant node whose output has a name; the caller inserts it."""
    return ir.Node(
        "",
        "Constant",
        [],
        [ir.AttrTensor("value", tensor)],
        outputs=[ir.Value(name=name, shape=_shape(tensor), type=ir.TensorType(tensor.dtype))],
        name=f"{name}_constant",
    )


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def add_constant(
    before: ir.Node, name: str, tensor: ir.TensorProtocol, *, in_function: bool
) -> ir.Value:
    """Add a constant that `before` and the nodes behind it can read.

    Args:
        before: A node of the graph.
        name: A name that is free (see `Names.fresh`).
        tensor: The contents.
        in_function: Whether the graph belongs to a function, where a Constant node stands in
            for an initializer.
    """
    graph = before.graph
    if graph is None:
        raise ValueError(f"{before.name!r} is in no graph")
    if not in_function:
        return add_initializer(graph, name, tensor)
    node = constant_node(name, tensor)
    graph.insert_before(before, node)
    return node.outputs[0]
