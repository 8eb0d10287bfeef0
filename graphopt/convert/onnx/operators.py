"""What an operator is that ONNX does not have, or has no more, in a model's version."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnx
import onnx_ir as ir

from graphopt.model import scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, opset

EXPERIMENTAL = {
    "ATen": "a call of a function of PyTorch; export the model without operator_export_type",
    "Affine": "alpha*x + beta; Mul and Add say it",
    "ConstantFill": "ConstantOfShape took its place",
    "Crop": "Slice says it",
    "DynamicSlice": "Slice took its place in opset 10",
    "GRUUnit": "one step of GRU",
    "GivenTensorFill": "Constant says it",
    "ImageScaler": "scale*x + bias per channel; Mul and Add say it",
    "LoopIndexTensor": "Gather says it",
    "ParametricSoftplus": "alpha*log(1 + exp(beta*x)); Mul and Softplus say it",
    "Scale": "scale*x; Mul says it",
    "ScaledTanh": "alpha*tanh(beta*x); Mul and Tanh say it",
}
"""What ONNX tried out before opset 9 and then gave up, and what it was."""

_REPLACED = {"Upsample": "Resize", "Scatter": "ScatterElements"}


def remarks(model: ir.Model) -> list[str]:
    """Explain, once each, the operators of ONNX's own domain that no version or not this one has.

    Operators of other domains are not ONNX's to know.
    """
    found: dict[str, None] = {}
    for scope in scopes(model):
        version = opset(model, scope.function)
        for node in scope.graph:
            if node.domain in ONNX_DOMAINS and node.op_identifier() not in model.functions:
                for why in _remark(node.op_type, version):
                    name = scope.at(node.name or node.outputs[0].name)
                    found.setdefault(f"{node.op_type} {name!r} {why}")
    return list(found)


def _remark(op_type: str, version: int) -> Iterator[str]:
    why = explain(op_type, version)
    if why is not None:
        yield why


def explain(op_type: str, version: int) -> str | None:
    """Say why an operator is none of a version of ONNX; None where it is one."""
    schema = schema_of(op_type, version)
    if schema is not None and not schema.deprecated:
        return None
    if schema is not None:
        new = _REPLACED.get(op_type)
        took = f", where {new} took its place" if new else ""
        return f"was removed from ONNX in opset {schema.since_version}{took}"
    if op_type in EXPERIMENTAL:
        return f"was an experimental operator of ONNX, given up: {EXPERIMENTAL[op_type]}"
    since = first_version(op_type)
    if since is None:
        return "is no operator of ONNX, in any version known here"
    return f"came to ONNX with opset {since}, and the model is written in opset {version}"


@cache
def schema_of(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """Return the operator as a version has it; None where it has none."""
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None


@cache
def first_version(op_type: str) -> int | None:
    """Return the version that an operator came with; None where no version has it."""
    versions = range(1, onnx.defs.onnx_opset_version() + 1)
    return next((version for version in versions if schema_of(op_type, version)), None)
