"""ONNX's shape inference, kept from listing more data than memory holds."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from graphopt.model.proto_graphs import proto_graphs

_MAX_PROPAGATED = 1 << 20
"""Elements of one tensor up to which ONNX may propagate data."""

_SHORTEST_LIST = {
    **dict.fromkeys(("ConstantOfShape", "CenterCropPad", "Expand", "Reshape", "Tile"), 2),
    **dict.fromkeys(("Pad", "Resize", "Upsample"), 3),
}
"""Operators whose data decide how large their result is: how many data mean that it is no list."""

_MAKERS_OF_LISTS = frozenset({"BlackmanWindow", "HammingWindow", "HannWindow", "OneHot", "Range"})

_UNKNOWN_DOMAIN = "graphopt.unknown"


def infer_in_bounds(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Infer the shapes of a model, and propagate data where that takes bounded time and memory.

    Args:
        proto: Stays as it is. Its weights may be external; they are not read.

    Raises:
        onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError: The model
            is inconsistent.
    """
    inferred = onnx.shape_inference.infer_shapes(proto)
    shapes = _known_shapes(inferred)
    if any(len(shape) == 1 and (shape[0] or 0) > _MAX_PROPAGATED for shape in shapes.values()):
        return inferred
    if not _hide_makers_of_lists(inferred, shapes):
        # Shapes that were found without data stand in the way of better ones.
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
    _show(inferred)
    return inferred


def _hide_makers_of_lists(
    inferred: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]
) -> bool:
    """Hide what could make a list too long; say whether there is any such.

    ONNX lists every element of every tensor of rank 1 that an operator like Gather reads, known or
    not: a file of a hundred bytes can ask for more than any memory holds. Sizes that are known
    already are looked at; nodes that could find a size out while data are propagated are hidden
    behind a domain of their own, and keep what is known of them.
    """
    found = False
    for graph in proto_graphs(inferred.graph):
        for node in graph.node:
            if node.domain in {"", "ai.onnx"} and _may_make_a_list(node, shapes):
                node.domain, found = _UNKNOWN_DOMAIN, True
    inferred.opset_import.add(domain=_UNKNOWN_DOMAIN, version=1)
    return found


def _may_make_a_list(node: onnx.NodeProto, shapes: Mapping[str, tuple[int | None, ...]]) -> bool:
    """Whether data may show that a node makes a tensor of rank 1, of a size not known yet."""
    made = [shapes.get(name) for name in node.output]
    if all(shape is not None and (len(shape) != 1 or shape[0] is not None) for shape in made):
        return False
    if node.op_type in _MAKERS_OF_LISTS:
        return True
    if node.op_type not in _SHORTEST_LIST:
        return False
    data = node.input if node.op_type == "ConstantOfShape" else node.input[1:]
    lengths = [shape[0] for name in data if (shape := shapes.get(name)) and len(shape) == 1]
    return all(length is None or length < _SHORTEST_LIST[node.op_type] for length in lengths)


def _show(inferred: onnx.ModelProto) -> None:
    """Undo what hid nodes."""
    for graph in proto_graphs(inferred.graph):
        for node in graph.node:
            if node.domain == _UNKNOWN_DOMAIN:
                node.domain = ""


def _known_shapes(inferred: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    found = {}
    for graph in proto_graphs(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in dims
                )
    return found
