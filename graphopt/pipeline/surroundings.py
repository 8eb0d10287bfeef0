"""What a rewrite did and what stands around it, as ONNX text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.model.serialize import attribute_proto

_BIG = 16


@dataclass(frozen=True)
class _Line:
    scope: str
    text: str
    node: ir.Node


def surroundings(before: ir.Model, after: ir.Model) -> str:
    """Show the nodes that differ between two models, and their neighbours.

    Lines begin with `-` where only the model before has the node, with `+` where only the model
    after has it, and with a blank where it is a neighbour. Where only weights differ, the nodes
    that read them are shown, and the weights by name. Big tensors are left out of the text.
    """
    old, new = list(_lines(before)), list(_lines(after))
    gone = _only_in(old, new)
    come = _only_in(new, old)
    weights = _changed_weights(before, after)
    blocks = []
    if gone or not come:
        readers = [line for line in old if weights & _reads(line)]
        blocks.append(_block("before", old, gone, readers, "-"))
    if come:
        blocks.append(_block("after", new, come, [], "+"))
    if weights:
        names = ", ".join(sorted(f"{scope}/{name}" if scope else name for scope, name in weights))
        blocks.append(f"changed weights: {names}")
    return "\n".join(block for block in blocks if block)


def _lines(model: ir.Model) -> Iterator[_Line]:
    for scope in scopes(model):
        for node in scope.graph:
            yield _Line(scope.name, _text(node), node)


def _only_in(lines: list[_Line], others: list[_Line]) -> list[_Line]:
    left = Counter((line.scope, line.text) for line in others)
    found = []
    for line in lines:
        key = (line.scope, line.text)
        if left[key] > 0:
            left[key] -= 1
        else:
            found.append(line)
    return found


def _block(
    title: str, lines: list[_Line], changed: list[_Line], also: list[_Line], mark: str
) -> str:
    nodes = {line.node for line in changed}
    near = {neighbour for node in nodes for neighbour in _neighbours(node)}
    near |= {line.node for line in also}
    rows, scope = [f"{title}:"], ""
    for line in lines:
        if line.node not in nodes and line.node not in near:
            continue
        if line.scope != scope:
            rows.append(f"  in {line.scope or 'the main graph'}:")
            scope = line.scope
        rows.append(f"  {mark if line.node in nodes else ' '} {line.text}")
    return "\n".join(rows) if len(rows) > 1 else ""


def _neighbours(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer
    for value in node.outputs:
        yield from value.consumers()


def _reads(line: _Line) -> set[tuple[str, str]]:
    # An initializer may be read from a body inside its scope.
    names = [value.name for value in line.node.inputs if value is not None and value.name]
    parts = line.scope.split("/") if line.scope else []
    outer = ["/".join(parts[:count]) for count in range(len(parts) + 1)]
    return {(scope, name) for scope in outer for name in names}


def _changed_weights(before: ir.Model, after: ir.Model) -> set[tuple[str, str]]:
    old = {(scope.name, name): tensor for scope in scopes(before) for name, tensor in _own(scope)}
    new = {(scope.name, name): tensor for scope in scopes(after) for name, tensor in _own(scope)}
    return {key for key in old.keys() & new.keys() if old[key] is not new[key]}


def _own(scope: Scope) -> Iterator[tuple[str, ir.TensorProtocol | None]]:
    for name, value in scope.graph.initializers.items():
        yield name, value.const_value


def _text(node: ir.Node) -> str:
    proto = onnx.NodeProto()
    proto.op_type, proto.domain, proto.name = node.op_type, node.domain, node.name or ""
    proto.input.extend("" if value is None else value.name or "" for value in node.inputs)
    proto.output.extend(value.name or "" for value in node.outputs)
    for attribute in node.attributes.values():
        proto.attribute.append(_attribute(attribute))
    return " ".join(onnx.printer.to_text(proto).split())


def _attribute(attribute: ir.Attr) -> onnx.AttributeProto:
    short = onnx.AttributeProto(name=attribute.name)
    if attribute.is_ref():
        return attribute_proto(attribute)
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        # The nodes of a body are lines of their own.
        short.type, short.s = onnx.AttributeProto.STRING, b"<body>"
        return short
    if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().size > _BIG:
        tensor = attribute.as_tensor()
        dims = ", ".join(map(str, tensor.shape))
        short.type = onnx.AttributeProto.STRING
        short.s = f"<{tensor.dtype.name}[{dims}]>".encode()
        return short
    return attribute_proto(attribute)
