"""A model in the one form that operators are computed in."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
)

from graphopt.errors import GraphoptError
from graphopt.model.order import restore_order
from graphopt.model.scopes import scopes
from graphopt.rewrite.opsets import NEWEST, raise_opset
from graphopt.rewrite.value_types import ValueTypes
from graphopt.training.call import label
from graphopt.training.operators import find

OPSET = NEWEST
"""The version of ONNX's operators that is computed; older models are raised to it."""


def prepared(model: ir.Model) -> ir.Model:
    """Copy a model into the form that `OnnxModule` runs; weights are shared.

    Its operators are those of opset `OPSET`, calls of functions are what the functions hold,
    constants are initializers of the main graph, and values have their element types.

    Raises:
        GraphoptError: The model has operators that nothing computes, takes text, or cannot be
            raised.
    """
    copy = model.clone()
    raise_opset(copy, OPSET)
    restore_order(copy)
    if copy.functions:
        InlinePass()(copy)
    _check(copy)
    NameFixPass()(copy)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    LiftSubgraphInitializersToMainGraphPass()(copy)
    restore_order(copy)
    _write_types(copy)
    return copy


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for scope in list(scopes(model)):
        yield from scope.graph


def _write_types(model: ir.Model) -> None:
    types = ValueTypes(model)
    for scope in scopes(model):
        for value in (
            *scope.graph.inputs,
            *(each for node in scope.graph for each in node.outputs),
        ):
            known = types(value)
            if known is not None and (value.type is None or isinstance(value.type, ir.TensorType)):
                value.dtype = known


def _check(model: ir.Model) -> None:
    unknown = sorted({label(node) for node in _nodes(model) if find(node) is None} - {"Constant"})
    if unknown:
        raise GraphoptError(
            f"nothing computes {', '.join(unknown)} in PyTorch",
            fix="rewrite these operators first, or leave the model in ONNX",
        )
    text = [value.name for value in model.graph.inputs if value.dtype == ir.DataType.STRING]
    if text:
        raise GraphoptError(
            f"input {text[0]!r} is text, for which PyTorch has no tensors",
            fix="cut the graph behind what reads it",
        )
