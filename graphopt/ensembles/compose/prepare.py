"""A member as the ensemble needs it: a copy of its own, in order, with what it cannot take told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ensembles.compose.copying import Copier
from graphopt.ensembles.output_types import complete_outputs
from graphopt.errors import GraphoptError
from graphopt.model.carried import EXTRAS_KEY, Extras
from graphopt.model.order import BrokenGraphError, restore_order
from graphopt.model.scopes import scopes
from graphopt.rewrite.constants import is_op

_NAME = re.compile(r"[^\W\d]\w*")
_LARGE = 1024
"""Bytes from which on a constant is a weight."""

_FIXED_UNTIL = 3
"""Up to this IR version the initializers had to be listed as inputs, and were fixed."""


@dataclass
class Prepared:
    """A member's own copy.

    Args:
        model: Shares tensors with the member, and nothing else.
        lost: What of the member an ensemble cannot hold.
    """

    model: ir.Model
    lost: tuple[str, ...]


def prepare(name: str, model: ir.Model) -> Prepared:
    """Copy a member and put its nodes in order.

    Raises:
        GraphoptError: Its name is none, or its graph is broken.
    """
    if not _NAME.fullmatch(name):
        raise GraphoptError(
            f"{name!r} cannot be the name of a member",
            fix="use letters, digits and underscores, a letter first",
        )
    copied = _copy(name, model)
    try:
        restore_order(copied)
    except BrokenGraphError as error:
        raise GraphoptError(f"member {name!r}: {error}", fix="export the model again") from error
    if (model.ir_version or 0) <= _FIXED_UNTIL:
        inputs = copied.graph.inputs
        inputs[:] = [value for value in inputs if not value.is_initializer()]
    _name_constants(copied)
    complete_outputs(copied)
    return Prepared(copied, tuple(_lost(model)))


def _copy(name: str, model: ir.Model) -> ir.Model:
    copier = Copier(name)
    graph = copier.graph(model.graph)
    copied = ir.Model(
        graph,
        ir_version=model.ir_version,
        functions=[_copy_function(name, function) for function in model.functions.values()],
    )
    graph.opset_imports.update(model.opset_imports)
    return copied


def _copy_function(name: str, function: ir.Function) -> ir.Function:
    return copy_function(Copier(name), function, function.identifier())


def copy_function(
    copier: Copier, function: ir.Function, identifier: tuple[str, str, str]
) -> ir.Function:
    """Copy a function under another identifier."""
    domain, name, overload = identifier
    copied = ir.Function(
        domain,
        name,
        overload,
        graph=copier.graph(function.graph),
        attributes=function.attributes.values(),
    )
    copied.doc_string = function.doc_string
    copied.metadata_props.update(function.metadata_props)
    return copied


def _name_constants(model: ir.Model) -> None:
    """Turn large Constant nodes into initializers, which instances share.

    ONNX Runtime does the same when it loads a model. Functions have no initializers.
    """
    for scope in [scope for scope in scopes(model) if scope.function is None]:
        for node in list(scope.graph):
            tensor = node.attributes.get("value") if is_op(node, "Constant") else None
            output = node.outputs[0] if node.outputs else None
            if tensor is None or output is None or output.is_graph_output() or not output.name:
                continue
            if tensor.as_tensor().nbytes >= _LARGE:
                scope.graph.initializers.add(_weight(output, tensor.as_tensor()))
                scope.graph.remove(node)


def _weight(output: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    weight = ir.Value(
        name=output.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        doc_string=output.doc_string,
        const_value=tensor,
        metadata_props=dict(output.metadata_props) or None,
    )
    weight.meta.update(output.meta)
    for user, index in list(output.uses()):
        user.replace_input_with(index, weight)
    return weight


def _lost(model: ir.Model) -> list[str]:
    found: Mapping[str, None] = dict.fromkeys(
        what
        for scope in scopes(model)
        if isinstance(extras := scope.graph.meta.get(EXTRAS_KEY), Extras)
        for what in _told(extras)
    )
    return list(found)


def _told(extras: Extras) -> list[str]:
    told = []
    if extras.training:
        told.append("training_info, which updates weights that an ensemble has not by those names")
    if extras.annotations:
        names = ", ".join(sorted({repr(stray.tensor_name) for stray in extras.annotations}))
        told.append(f"quantization annotations of {names}, which it does not have")
    return told
