"""What a crossing to onnx-graphsurgeon and back lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.model import scopes
from graphopt.model.carried import TYPE_KEY, values_of
from graphopt.model.lossless import differences
from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.serialize import Skeleton, to_skeleton

_ATTRIBUTES = frozenset(
    {
        ir.AttributeType.FLOAT,
        ir.AttributeType.INT,
        ir.AttributeType.STRING,
        ir.AttributeType.TENSOR,
        ir.AttributeType.GRAPH,
        ir.AttributeType.FLOATS,
        ir.AttributeType.INTS,
        ir.AttributeType.STRINGS,
    }
)
_LISTS = frozenset({ir.AttributeType.FLOATS, ir.AttributeType.INTS, ir.AttributeType.STRINGS})


def unsupported(model: ir.Model) -> Iterator[str]:
    """Name what onnx-graphsurgeon skips, or fails on in words that name nothing."""
    for function in model.functions.values():
        if function.overload:
            yield f"overload {function.overload} of function {function.name}"
    for scope in scopes(model):
        for value in values_of(scope.graph):
            if TYPE_KEY in value.meta or not _is_known(value.type):
                yield f"type of value {scope.at(value.name)}"
        for node in scope.graph:
            at = scope.at(node.name or node.op_type)
            for attribute in node.attributes.values():
                if not attribute.is_ref() and not _is_written(attribute):
                    yield f"attribute {attribute.name} of node {at}"


def _is_known(type_: ir.TypeProtocol | None) -> bool:
    if isinstance(type_, ir.SequenceType):
        return isinstance(type_.elem_type, ir.TensorType)
    return type_ is None or isinstance(type_, ir.TensorType | ir.SparseTensorType)


def _is_written(attribute: ir.Attr) -> bool:
    if attribute.type in _LISTS:
        # Of an empty list the library cannot tell which type it has.
        return len(attribute.value) > 0
    return attribute.type in _ATTRIBUTES


def losses(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """Name what differs between a model and what came back of it."""
    left, right = to_skeleton(before), to_skeleton(after)
    indices = {id(tensor): index for index, tensor in enumerate(left.tensors)}
    for skeleton in (left, right):

        def place(index: int, proto: onnx.TensorProto, skeleton: Skeleton = skeleton) -> None:
            index = indices.get(id(skeleton.tensors[index]), -1)
            proto.ClearField("external_data")
            proto.external_data.add(key="index", value=str(index))

        skeleton.fill(place)
        for graph in proto_graphs(skeleton.proto.graph):
            # Their order means nothing.
            graph.initializer.sort(key=lambda tensor: tensor.name)
    for path in differences(left.proto, right.proto):
        yield _in_words(left.proto, path)


def _in_words(model: onnx.ModelProto, path: str) -> str:
    """Name the nodes and attributes that a path like `graph.node[3].attribute[0].ints` is in."""
    message: Any = model
    words: list[str] = []
    for part in path.split("."):
        name, _, index = part.partition("[")
        position = index.rstrip("]")
        message = getattr(message, name, None)
        if position.isdecimal() and message is not None:
            message = message[int(position)]
            label = getattr(message, "name", "") or getattr(message, "op_type", "") or position
            words.append(f"{name} {label}")
        elif part not in {"graph", "g"}:
            words.append(part)
    return " of ".join(reversed(words)) or path
