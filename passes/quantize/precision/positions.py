"""Which inputs and outputs of a node change their type together."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import bodies
from graphopt.rewrite.constants import ONNX_DOMAINS, is_op
from graphopt.rewrite.value_types import OperatorTypes, ValueTypes, operator_types

MOVES = frozenset(
    {
        *("Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements"),
        *("GatherND", "Identity", "Pad", "Reshape", "ReverseSequence", "ScatterElements"),
        *("ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
        "Unsqueeze",
    }
)
"""Operators that compute nothing: they do as well in one type as in another."""

SAID = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype",
    "Bernoulli": "dtype",
    "Multinomial": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
    "ConstantOfShape": "value",
}
"""Operators whose attribute says the type of their output."""


@dataclass(frozen=True)
class Positions:
    """The inputs and outputs of a node that change their type.

    Args:
        inputs: Indices.
        outputs: Indices.
        variables: The type variables of the operator that they have.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    variables: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


def positions(
    node: ir.Node,
    version: int,
    types: ValueTypes,
    sources: frozenset[ir.DataType],
    target: ir.DataType,
) -> Positions | str:
    """Return what of a node changes its type, or why that cannot be.

    Args:
        node: A node that calls no function.
        version: The opset that it is written in.
        types: Of values.
        sources: The types that change.
        target: What they become.
    """
    if is_op(node, "If", "Loop", "Scan"):
        return _of_control_flow(node, version, types, sources)
    inputs = [index for index, value in enumerate(node.inputs) if types(value) in sources]
    outputs = [index for index, value in enumerate(node.outputs) if types(value) in sources]
    if not inputs and not outputs:
        return Positions()
    rule = operator_types(node, version)
    if rule is None or any(True for _ in bodies(node)):
        return f"{node.domain or 'ONNX'} says nothing of the types of {node.op_type}"
    if node.domain in ONNX_DOMAINS and node.op_type in SAID:
        return _of_said(node, rule, inputs, outputs, target)
    return _of_plain(node, rule, types, sources, target)


def _of_said(
    node: ir.Node,
    rule: OperatorTypes,
    inputs: list[int],
    outputs: list[int],
    target: ir.DataType,
) -> Positions | str:
    attribute = node.attributes.get(SAID[node.op_type])
    if attribute is not None and attribute.is_ref():
        return "the function's caller says its type"
    if outputs and target not in rule.allowed[rule.outputs[0]]:
        return _lacks(node, target)
    if inputs and target not in rule.allowed[rule.inputs[0]]:
        return _lacks(node, target)
    # What it reads has a type of its own: only Cast takes it in any.
    read = tuple(inputs) if node.op_type == "Cast" else ()
    return Positions(read, tuple(outputs), frozenset({rule.outputs[0]}))


def _of_plain(
    node: ir.Node,
    rule: OperatorTypes,
    types: ValueTypes,
    sources: frozenset[ir.DataType],
    target: ir.DataType,
) -> Positions | str:
    movable: set[str] = set()
    for index, value in enumerate(node.inputs):
        name = rule.of_input(index)
        if value is None or name is None:
            continue
        if types(value) is None:
            return f"the type of {value.name!r} is not known"
        if types(value) in sources and target in rule.allowed[name]:
            movable.add(name)
    if not movable:
        return _lacks(node, target)
    if any(name in movable and not rule.allowed[name] for name in rule.outputs):
        return "it makes no tensors"
    inputs = tuple(i for i in range(len(node.inputs)) if rule.of_input(i) in movable)
    outputs = tuple(i for i in range(len(node.outputs)) if rule.of_output(i) in movable)
    stuck = [
        i for i, value in enumerate(node.outputs) if types(value) in sources and i not in outputs
    ]
    if stuck and not outputs:
        return _lacks(node, target)
    read = tuple(i for i in inputs if types(node.inputs[i]) in sources)
    return Positions(read, outputs, frozenset(movable))


def _of_control_flow(
    node: ir.Node, version: int, types: ValueTypes, sources: frozenset[ir.DataType]
) -> Positions | str:
    if is_op(node, "Scan") and version < 9:
        return "Scan has a batch axis before opset 9"
    first = 2 if is_op(node, "Loop") else 0
    inputs: list[int] = []
    if not is_op(node, "If"):
        inputs = [i for i, v in enumerate(node.inputs) if i >= first and types(v) in sources]
    outputs = [i for i, value in enumerate(node.outputs) if types(value) in sources]
    if any(value is None for value in node.inputs[first:]):
        return "it leaves inputs out"
    return Positions(tuple(inputs), tuple(outputs))


def _lacks(node: ir.Node, target: ir.DataType) -> str:
    return f"{node.op_type} of this opset has no {target.name.lower()}"
