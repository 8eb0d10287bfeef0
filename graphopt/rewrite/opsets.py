"""Raise the version of ONNX's own operator set that a model is written in.

ONNX's version converter serializes a model with its weights, drops what its own format does not
hold, leaves functions as they are, and gets some operators wrong (Hardmax, the coordinates of
Upsample, Dropout and BatchNormalization in bodies without shapes); onnxscript's starts at opset 18
and knows three operators. So the changes between versions are made here, node by node, in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opset_changes import Facts, Impossible, Site, change

QUANTIZE = 10
"""QuantizeLinear, DequantizeLinear, MatMulInteger, ConvInteger."""

QUANTIZE_DYNAMIC = 11
"""DynamicQuantizeLinear."""

QUANTIZE_CHANNELS = 13
"""QuantizeLinear and DequantizeLinear with one scale per channel."""

QUANTIZE_FLOAT8 = 19
"""QuantizeLinear and DequantizeLinear to float8; their scales may be float16."""

QUANTIZE_BLOCKS = 21
"""QuantizeLinear and DequantizeLinear in blocks, and to int16, uint16, int4 and uint4."""

NEWEST = 26
"""The newest version whose changes are known here."""

_FIXED_UNTIL = 3
"""Up to this IR version the initializers had to be listed as inputs, and were fixed."""


def raise_opset(model: ir.Model, version: int) -> None:
    """Write a model in at least some version of ONNX's own operators, in place.

    The main graph, bodies and functions are covered, weights are neither read nor copied, and
    nothing else changes: names of values, metadata and other domains stay. Nodes that are written
    alike in both versions are not touched; several nodes that take the place of one carry its
    `doc_string` and metadata. The IR version rises to the one that ONNX pairs with the opset, and
    to 4 at least; where it was lower, fixed weights are not listed as inputs any more.

    A model that is there already stays as it is. One that cannot be raised does, too.

    Args:
        model: The model; what `Names.of` remembers of it is dropped.
        version: The opset, such as `QUANTIZE_CHANNELS`.

    Raises:
        GraphoptError: An operator of the model has no equal in that version, or what must be
            known for it (a rank, a constant) is not.
    """
    if not 1 <= version <= NEWEST:
        raise GraphoptError(f"opset {version} is not one of 1 to {NEWEST}")
    low = [scope for scope in scopes(model) if _version(model, scope) < version]
    if not low:
        return
    facts = Facts(model)
    edits = [edit for scope in low for edit in _edits(model, scope, version, facts)]
    _raise_ir_version(model, version)
    for edit in edits:
        edit()
    for scope in low:
        _import(model if scope.function is None else scope.function, version)
        for node in scope.graph:
            node.version = None
    Names.forget(model)


def is_below(model: ir.Model, version: int) -> bool:
    """Whether `raise_opset` would have anything to do."""
    return any(_version(model, scope) < version for scope in scopes(model))


def _version(model: ir.Model, scope: Scope) -> int:
    return opset(model, scope.function)


def _edits(
    model: ir.Model, scope: Scope, version: int, facts: Facts
) -> Iterator[Callable[[], None]]:
    source = _version(model, scope)
    for node in scope.graph:
        if node.domain not in ONNX_DOMAINS:
            continue
        site = Site(node, source, version, facts, in_function=scope.function is not None)
        try:
            edit = change(site)
            if edit is None:
                _check(node, version)
            else:
                yield edit
        except Impossible as error:
            raise GraphoptError(
                f"{node.op_type} {scope.at(node.name or node.outputs[0].name)!r} of opset {source}"
                f" cannot be written in opset {version}: {error}",
                fix=f"export the model with opset {version}",
            ) from None


def _check(node: ir.Node, version: int) -> None:
    """See that a node which is left as it is fits the operator of that version."""
    schema = _schema(node.op_type, version)
    if schema is None:
        # Unknown in all versions: an extension that only its own runtime knows.
        if _schema(node.op_type, onnx.defs.onnx_opset_version()) is not None:
            raise Impossible("the operator is newer")
        return
    if schema.deprecated:
        raise Impossible("the operator is gone")
    for name, attribute in node.attributes.items():
        known = schema.attributes.get(name)
        if known is None:
            raise Impossible(f"its attribute {name!r} is gone")
        if known.type != getattr(onnx.defs.OpSchema.AttrType, attribute.type.name):
            raise Impossible(f"its attribute {name!r} has another type")
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        raise Impossible(f"it takes no {len(node.inputs)} inputs")
    if len(node.outputs) > schema.max_output:
        raise Impossible(f"it has no {len(node.outputs)} outputs")


@cache
def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None


def _raise_ir_version(model: ir.Model, version: int) -> None:
    if (model.ir_version or 0) <= _FIXED_UNTIL:
        model.graph.inputs[:] = [v for v in model.graph.inputs if not v.is_initializer()]
    paired = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    model.ir_version = max(model.ir_version or 0, paired, _FIXED_UNTIL + 1)


def _import(owner: ir.Model | ir.Function, version: int) -> None:
    versions = owner.opset_imports
    spelled = "ai.onnx" if "ai.onnx" in versions and "" not in versions else ""
    versions[spelled] = max(version, versions.get(spelled, 0))
