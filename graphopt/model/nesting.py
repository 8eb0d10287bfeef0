"""How deep the graphs and types of a model nest."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from graphopt.errors import GraphoptError
from graphopt.model.proto_graphs import proto_bodies


def check_nesting(model: onnx.ModelProto, max_depth: int, file: str) -> None:
    """Raise GraphoptError where bodies or types nest deeper than a limit.

    protobuf itself parses no more than 100 nested messages, which bounds the recursion here.
    """
    graphs = [model.graph]
    for info in model.training_info:
        graphs += (info.initialization, info.algorithm)
    deepest = max(
        (
            *(_graph_depth(graph) for graph in graphs),
            *(_nodes_depth(function.node) for function in model.functions),
        ),
        default=0,
    )
    if deepest > max_depth:
        raise GraphoptError(
            f"its graphs or types nest {deepest} deep, more than the limit of {max_depth}",
            file=file,
            fix="raise the limit if you trust the file",
        )


def _graph_depth(graph: onnx.GraphProto) -> int:
    infos = (*graph.input, *graph.output, *graph.value_info)
    types = max((_type_depth(info.type) for info in infos), default=0)
    return max(types, _nodes_depth(graph.node))


def _nodes_depth(nodes: Iterable[onnx.NodeProto]) -> int:
    return max(
        (1 + _graph_depth(body) for node in nodes for body in proto_bodies(node)),
        default=0,
    )


def _type_depth(proto: onnx.TypeProto) -> int:
    if proto.HasField("sequence_type"):
        return 1 + _type_depth(proto.sequence_type.elem_type)
    if proto.HasField("optional_type"):
        return 1 + _type_depth(proto.optional_type.elem_type)
    if proto.HasField("map_type"):
        return 1 + _type_depth(proto.map_type.value_type)
    return 0
