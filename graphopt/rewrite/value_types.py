"""Element types of all values of a model, also inside functions, from the rules of its operators.

Shape inference says nothing about functions, whose types depend on who calls them. Here each call
is followed; a function that is called with different types has no type where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.model.scopes import bodies
from graphopt.rewrite.constants import ONNX_DOMAINS, constant, is_op, opset

MICROSOFT = "com.microsoft"
"""The domain of the operators that ONNX Runtime adds."""

_TENSOR = "tensor("
_NAMES = {"float": "FLOAT", "double": "DOUBLE"}

_FROM_ATTRIBUTE = {
    "Cast": ("to", None),
    "EyeLike": ("dtype", None),
    "RandomNormal": ("dtype", ir.DataType.FLOAT),
    "RandomUniform": ("dtype", ir.DataType.FLOAT),
    "RandomNormalLike": ("dtype", None),
    "RandomUniformLike": ("dtype", None),
    "Bernoulli": ("dtype", None),
    "Multinomial": ("dtype", ir.DataType.INT32),
    "HannWindow": ("output_datatype", ir.DataType.FLOAT),
    "HammingWindow": ("output_datatype", ir.DataType.FLOAT),
    "BlackmanWindow": ("output_datatype", ir.DataType.FLOAT),
    "MelWeightMatrix": ("output_datatype", ir.DataType.FLOAT),
}
"""Operators whose output type an attribute says, and what it is without one; None: the input's."""


class ValueTypes:
    """The element type of each value, where the operators say it.

    Args:
        model: Read once, now. Its nodes must be in order.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._types: dict[ir.Value, ir.DataType | None] = {}
        self._visited: set[int] = set()
        self._graph(model.graph, opset(model))

    def __call__(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type of a value; None: not known, or no tensor."""
        if value is None:
            return None
        tensor = constant(value)
        if tensor is not None:
            return tensor.dtype
        return self._types.get(value)

    def learn(self, value: ir.Value, dtype: ir.DataType | None) -> None:
        """Say what type a new or changed value has."""
        self._types[value] = dtype

    def _graph(self, graph: ir.Graph, version: int) -> None:
        for value in graph.inputs:
            if value not in self._types:
                self._types[value] = _declared(value)
        for node in graph:
            self._node(node, version)

    def _node(self, node: ir.Node, version: int) -> None:
        function = self._model.functions.get(node.op_identifier())
        if function is not None:
            found = self._call(node, function)
        elif is_op(node, "If", "Loop", "Scan", "SequenceMap"):
            found = self._control_flow(node, version)
        else:
            found = self._plain(node, version)
        for value, dtype in zip(node.outputs, found, strict=False):
            self._types[value] = dtype

    def _call(self, node: ir.Node, function: ir.Function) -> list[ir.DataType | None]:
        is_first = id(function) not in self._visited
        changed = is_first
        for index, value in enumerate(function.inputs):
            dtype = self(node.inputs[index]) if index < len(node.inputs) else None
            if is_first:
                self._types[value] = dtype
            elif self._types.get(value) != dtype and index < len(node.inputs):
                self._types[value] = None
                changed = True
        self._visited.add(id(function))
        if changed:
            for inner in function:
                self._node(inner, opset(self._model, function))
        return [self(value) for value in function.outputs]

    def _control_flow(self, node: ir.Node, version: int) -> list[ir.DataType | None]:
        outputs: list[ir.DataType | None] = []
        for body in bodies(node):
            fed = list(node.inputs)
            if is_op(node, "Loop"):
                fed = [None, None, *node.inputs[2:]]
            for value, source in zip(body.inputs, fed, strict=False):
                self._types[value] = self(source) or _declared(value)
            for value in body.inputs:
                self._types.setdefault(value, _declared(value))
            for inner in body:
                self._node(inner, version)
            found = [self(value) for value in body.outputs]
            outputs = found[1:] if is_op(node, "Loop") else found
        return outputs if is_op(node, "If", "Loop", "Scan") else []

    def _plain(self, node: ir.Node, version: int) -> list[ir.DataType | None]:
        told = self._told(node)
        if told is not None:
            return [told]
        rule = operator_types(node, version)
        if rule is None:
            return [_declared(value) for value in node.outputs]
        bound: dict[str, ir.DataType] = {}
        for index, value in enumerate(node.inputs):
            name, dtype = rule.of_input(index), self(value)
            if name is not None and dtype is not None:
                bound.setdefault(name, dtype)
        return [self._output(node, rule, index, bound) for index in range(len(node.outputs))]

    def _output(
        self,
        node: ir.Node,
        rule: OperatorTypes,
        index: int,
        bound: Mapping[str, ir.DataType],
    ) -> ir.DataType | None:
        name = rule.of_output(index)
        if name in bound:
            return bound[name]
        allowed = rule.allowed[name]
        if len(allowed) == 1:
            return next(iter(allowed))
        if node.op_type == "QuantizeLinear":
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            said = node.attributes.get_int("output_dtype", 0)
            return self(zero) or (ir.DataType(said) if said else ir.DataType.UINT8)
        return _declared(node.outputs[index])

    def _told(self, node: ir.Node) -> ir.DataType | None:
        if node.domain not in ONNX_DOMAINS:
            return None
        if node.op_type == "CastLike":
            return self(node.inputs[1])
        if node.op_type in ("Constant", "ConstantOfShape"):
            return _filled(node)
        if node.op_type not in _FROM_ATTRIBUTE:
            return None
        name, default = _FROM_ATTRIBUTE[node.op_type]
        said = node.attributes.get(name)
        if said is not None and not said.is_ref():
            return ir.DataType(said.as_int())
        return default or (self(node.inputs[0]) if node.inputs else None)


def _filled(node: ir.Node) -> ir.DataType | None:
    if node.op_type == "Constant":
        return getattr(constant(node.outputs[0]), "dtype", None)
    value = node.attributes.get("value")
    if value is None:
        return ir.DataType.FLOAT
    return None if value.is_ref() else value.as_tensor().dtype


def _declared(value: ir.Value) -> ir.DataType | None:
    return value.type.dtype if isinstance(value.type, ir.TensorType) else None


@dataclass(frozen=True)
class OperatorTypes:
    """The types that an operator takes and returns.

    Args:
        inputs: The type variable (or the one type) of each input.
        repeats: Whether the last input may come any number of times.
        outputs: Those of each output; the last one may come any number of times.
        allowed: The element types that each variable may stand for; none where it is no tensor.
        since: The opset that the operator is from.
    """

    inputs: tuple[str, ...]
    repeats: bool
    outputs: tuple[str, ...]
    allowed: Mapping[str, frozenset[ir.DataType]]
    since: int

    def of_input(self, index: int) -> str | None:
        """Return the type variable of an input."""
        if index < len(self.inputs):
            return self.inputs[index]
        return self.inputs[-1] if self.repeats else None

    def of_output(self, index: int) -> str:
        """Return the type variable of an output."""
        return self.outputs[min(index, len(self.outputs) - 1)]


def operator_types(node: ir.Node, version: int) -> OperatorTypes | None:
    """Return the types of an operator of ONNX or of ONNX Runtime; None for any other.

    Args:
        node: Calls the operator.
        version: The opset of ONNX that it is written in.
    """
    if node.domain in ONNX_DOMAINS:
        return _of_onnx(node.op_type, version)
    return _of_onnx_runtime().get(node.op_type) if node.domain == MICROSOFT else None


@cache
def _of_onnx(op_type: str, version: int) -> OperatorTypes | None:
    try:
        rule = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    inputs = [(formal.type_str, formal.option) for formal in rule.inputs]
    return _types(rule, inputs, [formal.type_str for formal in rule.outputs])


@cache
def _of_onnx_runtime() -> Mapping[str, OperatorTypes]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return {
        rule.name: _types(
            rule,
            [(formal.typeStr, formal.option) for formal in rule.inputs],
            [formal.typeStr for formal in rule.outputs],
        )
        for rule in state.get_all_operator_schema()
        if rule.domain == MICROSOFT and rule.outputs
    }


def _types(rule: Any, inputs: list[tuple[str, Any]], outputs: list[str]) -> OperatorTypes:
    allowed = {
        constraint.type_param_str: _elements(constraint.allowed_type_strs)
        for constraint in rule.type_constraints
    }
    names = [name for name, _ in inputs]
    for name in (*names, *outputs):
        allowed.setdefault(name, _elements([name]))
    repeats = bool(inputs) and str(inputs[-1][1]).endswith("Variadic")
    return OperatorTypes(tuple(names), repeats, tuple(outputs), allowed, rule.since_version)


def _elements(spelled: Iterable[str]) -> frozenset[ir.DataType]:
    texts = (text[len(_TENSOR) : -1] for text in spelled if text.startswith(_TENSOR))
    names = (_NAMES.get(text, text.upper()) for text in texts)
    return frozenset(ir.DataType[known] for known in names if known in ir.DataType.__members__)
