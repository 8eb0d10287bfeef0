"""The graphs inside a ModelProto: the bodies of its nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def proto_bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in the attributes of a node, not those inside them."""
    for attribute in node.attribute:
        yield from attribute_bodies(attribute)


def attribute_bodies(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all bodies inside it, at any depth."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(body for node in current.node for body in proto_bodies(node))
