"""Regions of a graph whose activations are integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import ONNX_DOMAINS, constant, is_op
from passes.quantize.dequantize.operators import OPERATORS, Quantized

MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that give some of the numbers that they are given."""

_SETTINGS = frozenset({"Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Tile"})
"""Those of them whose further inputs are no data."""


@dataclass
class Region:
    """Nodes that integers connect, and what is known of the integers.

    Args:
        nodes: In the order of the graph.
        quantized: The scale and zero point of each value of integers.
        refusal: Why the region cannot become one of floats, where it cannot.
        of_constants: The scale of constants that it moves.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    quantized: dict[ir.Value, Quantized] = field(default_factory=dict)
    refusal: str | None = None
    of_constants: Quantized | None = None

    @property
    def only_moves(self) -> bool:
        """Whether nothing in it quantizes or computes: its integers are constants."""
        return not any(is_op(n, "QuantizeLinear") or n.op_type in OPERATORS for n in self.nodes)


def regions(scope: Scope) -> Iterator[Region]:
    """Yield the regions of one scope; a constant that is quantized or dequantized starts none."""
    order = {node: position for position, node in enumerate(scope.graph)}
    seen: set[ir.Node] = set()
    for node in order:
        if node in seen or not _starts(node):
            continue
        region = _grown(node, scope)
        seen.update(region.nodes)
        region.nodes.sort(key=lambda member: order.get(member, -1))
        yield region


def _starts(node: ir.Node) -> bool:
    if is_op(node, "QuantizeLinear", "DequantizeLinear"):
        return constant(node.inputs[0]) is None
    return node.op_type in OPERATORS


def _grown(start: ir.Node, scope: Scope) -> Region:
    region, pending, seen = Region(), [start], set[ir.Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        region.nodes.append(node)
        if node.graph is not scope.graph:
            region.refusal = "a body around which they are computed reads its integers"
            continue
        for value in _integers_of(node):
            if value.is_graph_output():
                region.refusal = f"{value.name} is an output of the graph"
            pending.extend(use.node for use in value.uses())
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            elif constant(value) is None:
                region.refusal = f"{value.name} is an input of the graph"
    region.nodes = list(seen)
    return region


def _integers_of(node: ir.Node) -> list[ir.Value]:
    """Return the computed integers that a node reads and writes."""
    if is_op(node, "QuantizeLinear"):
        return list(node.outputs)
    if is_op(node, "DequantizeLinear"):
        read = node.inputs[:1]
    elif node.op_type in OPERATORS:
        read = [node.inputs[index] for index in OPERATORS[node.op_type].data(node)]
    elif node.domain in ONNX_DOMAINS and node.op_type in MOVES:
        read = moved(node)
    else:
        return []
    values = [value for value in read if value is not None and constant(value) is None]
    return values if is_op(node, "DequantizeLinear") else [*values, *node.outputs]


def understand(region: Region) -> None:
    """Find the scale of all integers of a region, or why it cannot become one of floats."""
    ends = [Quantized.of(node, 1, 2) for node in region.nodes if is_op(node, "DequantizeLinear")]
    if ends and ends[0].is_one_for_all:
        region.of_constants = ends[0]
    for node in region.nodes:
        if region.refusal is not None:
            return
        region.refusal = _understand(node, region)


def _understand(node: ir.Node, region: Region) -> str | None:
    known = region.quantized
    if is_op(node, "QuantizeLinear"):
        known[node.outputs[0]] = Quantized.of(node, 1, 2)
        return None
    if node.op_type in OPERATORS:
        known[node.outputs[0]] = OPERATORS[node.op_type].written(node)
        return OPERATORS[node.op_type].refusal(node)
    if is_op(node, "DequantizeLinear"):
        before = known.get(node.inputs[0]) if node.inputs[0] is not None else None
        same = before is not None and before.equals(Quantized.of(node, 1, 2))
        return None if same else f"{node.name} reads integers with another scale"
    if node.domain in ONNX_DOMAINS and node.op_type in MOVES:
        return _understand_move(node, region)
    return f"{node.op_type} {node.name} computes with its integers"


def _understand_move(node: ir.Node, region: Region) -> str | None:
    found = [
        region.of_constants if constant(value) is not None else region.quantized.get(value)
        for value in moved(node)
    ]
    first = found[0] if found else None
    if first is None or any(one is None or not first.equals(one) for one in found):
        return f"{node.op_type} {node.name} joins integers of different scales"
    region.quantized.update(dict.fromkeys(node.outputs, first))
    return None


def moved(node: ir.Node) -> list[ir.Value]:
    """Return the data that one of `MOVES` reads."""
    read = node.inputs[:1] if node.op_type in _SETTINGS else node.inputs
    return [value for value in read if value is not None]


def saturation(quantized: Quantized) -> tuple[float, float] | None:
    """Return the range of integers that stand for no negative number; None for others.

    A quantizer takes a Relu or a Clip away in front of integers that saturate where it does.
    """
    if quantized.low is None or quantized.high is None:
        return None
    return (0.0, quantized.high) if quantized.low == 0 else None


_NEVER_NEGATIVE = frozenset(
    {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
)
_KEEPS_SIGN = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", *MOVES})
_DEEPEST = 32


def is_never_negative(value: ir.Value | None, depth: int = 0) -> bool:
    """Whether a value is known to hold no negative number."""
    producer = None if value is None else value.producer()
    if producer is None or producer.domain not in ONNX_DOMAINS or depth > _DEEPEST:
        return False
    if producer.op_type in _NEVER_NEGATIVE:
        return True
    if producer.op_type == "Clip":
        return _clips_at_zero(producer)
    if producer.op_type not in _KEEPS_SIGN:
        return False
    read = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    return all(is_never_negative(source, depth + 1) for source in read)


def _clips_at_zero(node: ir.Node) -> bool:
    low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if low is None:
        return (node.attributes.get_float("min", -np.inf) or 0.0) >= 0.0
    return bool((low.numpy() >= 0).all())
