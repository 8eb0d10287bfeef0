"""A model written in another version of ONNX's operators: newer, or older."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.convert.onnx.lowering import lower_opset
from graphopt.convert.onnx.operators import explain, first_version
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, opset
from graphopt.rewrite.opsets import NEWEST, raise_opset


def to_opset(model: ir.Model, version: int, source: str) -> None:
    """Write the main graph, bodies and functions in a version of the default operator set.

    Raises:
        GraphoptError: An operator has no equal there; the text names it and where it is.
    """
    if not 1 <= version <= NEWEST:
        raise GraphoptError(f"opset {version} is not one of 1 to {NEWEST}", file=source)
    _check_known(model, version, source)
    try:
        lower_opset(model, version)
        raise_opset(model, version)
    except GraphoptError as error:
        raise GraphoptError(error.cause, file=source, fix=error.fix) from error


def _check_known(model: ir.Model, version: int, source: str) -> None:
    """Refuse what no version of ONNX says the meaning of, where the version would change."""
    for scope in scopes(model):
        if opset(model, scope.function) == version:
            continue
        for node in scope.graph:
            if (
                node.domain in ONNX_DOMAINS
                and node.op_identifier() not in model.functions
                and first_version(node.op_type) is None
            ):
                name = scope.at(node.name or node.outputs[0].name)
                why = explain(node.op_type, opset(model, scope.function))
                raise GraphoptError(
                    f"{node.op_type} {name!r} {why}",
                    file=source,
                    fix="leave the opset as it is, or export the model without the operator",
                )
