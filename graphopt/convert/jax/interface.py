"""Inputs and outputs of what jax2onnx exports: names, types and sizes as they are in JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from graphopt.convert.contract import Dim
from graphopt.convert.jax.function import Function
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.rewrite.names import Names

_NARROWER = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_UNKNOWN = "JAX2ONNX_DYNAMIC_DIM_SENTINEL"


def fit_interface(
    model: ir.Model,
    function: Function,
    dims: Sequence[tuple[Dim, ...]],
    outputs: Sequence[tuple[str, Any]],
) -> list[str]:
    """Give inputs and outputs the names, types and shapes of the function's.

    Args:
        model: The exported model. It is edited.
        function: Whose arrays the inputs are.
        dims: Dimensions of each input.
        outputs: Name, and what has shape and dtype, of each output.

    Returns:
        What the user should know.

    Raises:
        GraphoptError: The model has other inputs or outputs than the function.
    """
    graph = model.graph
    if len(graph.inputs) != len(function.names) or len(graph.outputs) != len(outputs):
        raise GraphoptError(
            f"jax2onnx gives {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, the"
            f" function has {len(function.names)} and {len(outputs)}",
            file=function.source,
        )
    _forget_unknown_sizes(model)
    _separate_outputs(model)
    notes: list[str] = []
    for value, name, example, shape in zip(
        graph.inputs, function.names, function.examples, dims, strict=True
    ):
        wanted = ir.DataType.from_numpy(example.dtype)
        if value.dtype != wanted:
            _cast_behind(model, value, wanted)
        value.name = name
        value.shape = ir.Shape(shape)
    for index, (name, leaf) in enumerate(outputs):
        wanted = ir.DataType.from_numpy(leaf.dtype)
        if graph.outputs[index].dtype == ir.DataType.DOUBLE and wanted in _NARROWER:
            _cast_output(model, index, wanted)
            notes.append(f"{name} is computed in float64, beside inputs of it, and then cast")
        value = graph.outputs[index]
        value.name = name
        value.shape = ir.Shape([dim if isinstance(dim, int) else str(dim) for dim in leaf.shape])
    Names.forget(model)
    return notes


def _forget_unknown_sizes(model: ir.Model) -> None:
    for scope in scopes(model):
        for value in (
            *scope.graph.inputs,
            *(output for node in scope.graph for output in node.outputs),
        ):
            if value.shape is not None and any(_is_unknown(dim) for dim in value.shape):
                value.shape = ir.Shape([None if _is_unknown(dim) else dim for dim in value.shape])


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and _UNKNOWN in (dim.value or "")


def _separate_outputs(model: ir.Model) -> None:
    """Let every output be a value of its own: functions may return an input, or a value twice."""
    graph = model.graph
    seen: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    for index, value in enumerate(graph.outputs):
        if value in seen:
            name = Names.of(model).fresh(f"{value.name}_output")
            copy = ir.Value(name=name, type=value.type, shape=value.shape)
            graph.append(ir.Node("", "Identity", [value], outputs=[copy], name=name))
            graph.outputs[index] = copy
        seen.add(graph.outputs[index])


def _cast_output(model: ir.Model, index: int, wanted: ir.DataType) -> None:
    value = model.graph.outputs[index]
    name = Names.of(model).fresh(f"{value.name}_cast")
    cast = ir.Value(name=name, type=ir.TensorType(wanted), shape=value.shape)
    to = ir.AttrInt64("to", int(wanted))
    model.graph.append(ir.Node("", "Cast", [value], [to], outputs=[cast], name=name))
    model.graph.outputs[index] = cast


def _cast_behind(model: ir.Model, value: ir.Value, wanted: ir.DataType) -> None:
    """Take an input in the function's type, where jax2onnx takes all floats in double precision."""
    assert value.dtype is not None
    name = Names.of(model).fresh(f"{value.name}_cast")
    cast = ir.Value(name=name, type=value.type, shape=value.shape)
    node = ir.Node(
        "", "Cast", [value], [ir.AttrInt64("to", int(value.dtype))], outputs=[cast], name=name
    )
    ir.convenience.replace_all_uses_with(value, cast)
    node.replace_input_with(0, value)
    first = next(iter(model.graph), None)
    if first is None:
        model.graph.append(node)
    else:
        model.graph.insert_before(first, node)
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[index] = cast
    value.type = ir.TensorType(wanted)
