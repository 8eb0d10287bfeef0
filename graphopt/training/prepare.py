"""A model in the one form that operators are computed in."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    AddDefaultAttributesPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
)

from graphopt.errors import GraphoptError
from graphopt.model.order import restore_order
from graphopt.model.scopes import scopes
from graphopt.model.serialize import attribute_proto
from graphopt.rewrite.constants import opset
from graphopt.rewrite.opsets import NEWEST, raise_opset
from graphopt.rewrite.value_types import ValueTypes
from graphopt.training.call import label
from graphopt.training.operators import find

OPSET = NEWEST
"""The version of ONNX's operators that is computed; older models are raised to it."""

_EXPANDED = "graphopt.expanded"
"""The domain of the functions that stand for operators which ONNX defines by others."""


def prepared(model: ir.Model) -> ir.Model:
    """Copy a model into the form that `OnnxModule` runs; weights are shared.

    Its operators are those of opset `OPSET`; calls of functions are what the functions hold, as are
    operators that ONNX defines by others and that nothing computes here; constants are
    initializers of the main graph.

    Raises:
        GraphoptError: The model has operators that nothing computes, or cannot be raised.
    """
    copy = model.clone()
    raise_opset(copy, OPSET)
    restore_order(copy)
    _inline(copy)
    while _expand(copy):
        _inline(copy)
    _check(copy)
    NameFixPass()(copy)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    LiftSubgraphInitializersToMainGraphPass()(copy)
    restore_order(copy)
    return copy


def _inline(model: ir.Model) -> None:
    if model.functions:
        InlinePass()(model)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for scope in list(scopes(model)):
        yield from scope.graph


def _check(model: ir.Model) -> None:
    unknown = sorted({label(node) for node in _nodes(model) if find(node) is None} - {"Constant"})
    if unknown:
        raise GraphoptError(
            f"nothing computes {', '.join(unknown)} in PyTorch",
            fix="rewrite these operators first, or leave the model in ONNX",
        )


def _expand(model: ir.Model) -> bool:
    """Let operators that ONNX defines by a function, and that nothing computes, call it."""
    unknown = [node for node in _nodes(model) if find(node) is None and _schema(model, node)]
    if not unknown:
        return False
    AddDefaultAttributesPass()(model)
    types = ValueTypes(model)
    for index, node in enumerate(unknown):
        schema = _schema(model, node)
        function = None if schema is None else _definition(schema, node, types)
        if function is None:
            continue
        name = f"{node.op_type}_{len(model.functions)}_{index}"
        body = ir.from_proto(function)
        made = ir.Function(_EXPANDED, name, graph=body.graph, attributes=body.attributes.values())
        model.functions[made.identifier()] = made
        node.domain, node.op_type = _EXPANDED, name
    model.opset_imports.setdefault(_EXPANDED, 1)
    return bool(model.functions)


def _schema(model: ir.Model, node: ir.Node) -> onnx.defs.OpSchema | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = opset(model) if not domain else model.opset_imports.get(domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    has = schema.has_function or schema.has_context_dependent_function
    return schema if has else None


def _definition(
    schema: onnx.defs.OpSchema, node: ir.Node, types: ValueTypes
) -> onnx.FunctionProto | None:
    if schema.has_function:
        return schema.function_body
    described = [_type_bytes(types(value)) for value in node.inputs]
    proto = onnx.helper.make_node(
        node.op_type,
        [value.name or "" if value else "" for value in node.inputs],
        [value.name or "" for value in node.outputs],
        domain=node.domain,
    )
    proto.attribute.extend(attribute_proto(each) for each in node.attributes.values())
    found = schema.get_context_dependent_function(proto.SerializeToString(), described)
    return onnx.FunctionProto.FromString(found) if found else None


def _type_bytes(dtype: ir.DataType | None) -> bytes:
    kind = onnx.TypeProto()
    if dtype is not None:
        kind.tensor_type.elem_type = dtype.value
    return kind.SerializeToString()
