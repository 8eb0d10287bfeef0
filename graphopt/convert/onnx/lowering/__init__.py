"""Write a model in an older version of ONNX's own operators.

The changes that `graphopt.rewrite.opset_changes` makes upward are undone here, node by node, where
the node says nothing that the older version cannot say. What it cannot say is refused by the name
of the operator, the place and the reason. As there, an operator without a rule means the same in
all versions that take its attributes, inputs and types. What has no older form is written as ONNX
defines it by other operators, where ONNX does, and those are lowered in turn.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.convert.onnx.lowering.definitions import PART_OF, write_definitions
from graphopt.convert.onnx.lowering.rules import RULES
from graphopt.convert.onnx.operators import explain, first_version, schema_of
from graphopt.errors import GraphoptError
from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opset_changes import Facts, Impossible, Site

_TEXTS = {
    ("Pad", "wrap"): 19,
    ("Resize", "half_pixel_symmetric"): 19,
    ("ScatterElements", "max"): 18,
    ("ScatterElements", "min"): 18,
    ("ScatterND", "max"): 18,
    ("ScatterND", "min"): 18,
}
"""Texts in attributes that came with a version later than the attribute."""

_NEGATIVE_AXES = 11
_NOT_AXES = frozenset({"OneHot", "LpNormalization", "QuantizeLinear", "DequantizeLinear"})
"""Operators whose axis could be negative, or was not there, before opset 11."""

_FUNCTIONS_SINCE = 8
_NO_INPUTS_SINCE = 4
_TYPES_SINCE = {
    9: {"FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"},
    10: {"INT4", "UINT4"},
    11: {"FLOAT4E2M1"},
    12: {"FLOAT8E8M0"},
    13: {"INT2", "UINT2"},
}
"""Element types by the IR version that they came with."""


def lower_opset(model: ir.Model, version: int) -> None:
    """Write the main graph, bodies and functions in at most some version, in place.

    Scopes that are written in it or in an older one stay. The IR version falls to the one that
    ONNX pairs with the opset, or to what functions and types of the model need.

    Args:
        model: The model. Where this fails, it may be half changed.
        version: The version.

    Raises:
        GraphoptError: An operator has no equal in that version.
    """
    high = [scope for scope in scopes(model) if opset(model, scope.function) > version]
    if not high:
        return

    def lowers(node: ir.Node, scope: Scope, facts: Facts) -> bool:
        return _reason(_site(node, scope, opset(model, scope.function), version, facts)) is None

    facts = write_definitions(model, version, lowers)
    high = [scope for scope in scopes(model) if opset(model, scope.function) > version]
    for scope in high:
        for node in list(scope.graph):
            if node.domain in ONNX_DOMAINS and node.op_identifier() not in model.functions:
                _lower(_site(node, scope, opset(model, scope.function), version, facts), scope)
    for scope in high:
        imports = (model if scope.function is None else scope.function).opset_imports
        imports["ai.onnx" if "ai.onnx" in imports and "" not in imports else ""] = version
        for node in scope.graph:
            node.version = None
    _lower_ir_version(model, version)
    Names.forget(model)


def _site(node: ir.Node, scope: Scope, source: int, target: int, facts: Facts) -> Site:
    return Site(node, source, target, facts, in_function=scope.function is not None)


def _reason(site: Site) -> str | None:
    """Say why a node cannot be lowered; None where it can, or where only an edit will tell."""
    rule = RULES.get(site.node.op_type)
    try:
        if rule is None or rule(site) is None:
            _check(site)
    except Impossible as error:
        return str(error)
    return None


def _lower(site: Site, scope: Scope) -> None:
    node = site.node
    title = f"{node.op_type} {scope.at(node.name or node.outputs[0].name)!r}"
    if PART_OF in node.meta:
        title = f"{node.meta[PART_OF]}, by its part {node.op_type},"
    try:
        rule = RULES.get(node.op_type)
        edit = None if rule is None else rule(site)
        if edit is not None:
            edit()
        if node.graph is not None:
            _check(site)
    except Impossible as error:
        raise GraphoptError(
            f"{title} of opset {site.source} cannot be written in opset {site.target}: {error}",
            fix="ask for a newer --opset, or let --cleanup fold what is computed of constants",
        ) from None


def _check(site: Site) -> None:
    """See that a node, after its rule, fits the operator of the older version."""
    node = site.node
    new, old = schema_of(node.op_type, site.source), schema_of(node.op_type, site.target)
    if old is None:
        if new is None:
            raise Impossible(f"it {explain(node.op_type, site.source)}")
        raise Impossible(f"the operator came with opset {first_version(node.op_type)}")
    if new is not None and new.since_version == old.since_version:
        return
    _fit_attributes(site, new, old)
    _fit_axes(site)
    _fit_inputs(site, old)
    _fit_types(site, old)


def _fit_attributes(site: Site, new: onnx.defs.OpSchema | None, old: onnx.defs.OpSchema) -> None:
    node = site.node
    for name, attribute in list(node.attributes.items()):
        known = old.attributes.get(name)
        if known is None:
            if new is None or not _is_default(attribute, new.attributes[name]):
                raise Impossible(f"its attribute {name!r} came later")
            del node.attributes[name]
        elif known.type != getattr(onnx.defs.OpSchema.AttrType, attribute.type.name):
            raise Impossible(f"its attribute {name!r} had another type")
        elif (
            attribute.type == ir.AttributeType.STRING
            and not attribute.is_ref()
            and site.target < _TEXTS.get((node.op_type, attribute.as_string()), 0)
        ):
            raise Impossible(f"its {name} {attribute.as_string()!r} came later")
    missing = [
        name for name, known in old.attributes.items() if known.required and not site.has(name)
    ]
    if missing:
        raise Impossible(f"its attribute {missing[0]!r} had to be there")


def _is_default(attribute: ir.Attr, known: onnx.defs.OpSchema.Attribute) -> bool:
    default = known.default_value
    if attribute.is_ref() or default.type == onnx.AttributeProto.UNDEFINED:
        return False
    value = onnx.helper.get_attribute_value(default)
    return bool(attribute.value == (value.decode() if isinstance(value, bytes) else value))


def _fit_axes(site: Site) -> None:
    """Count axes from the front, as all had to be until opset 11."""
    node = site.node
    if not site.target < _NEGATIVE_AXES <= site.source or node.op_type in _NOT_AXES:
        return
    for name in ("axis", "axes"):
        given = site.value(name)
        axes = [given] if isinstance(given, int) else list(given or ())
        if all(axis >= 0 for axis in axes):
            continue
        rank = site.rank(0)
        if rank is None:
            raise Impossible("it counts axes from the end, and the rank of its input is not known")
        rank += len(axes) if node.op_type == "Unsqueeze" else 0
        counted = [axis % rank for axis in axes]
        content = counted[0] if isinstance(given, int) else counted
        node.attributes[name] = ir.convenience.convert_attribute(name, content)


def _fit_inputs(site: Site, old: onnx.defs.OpSchema) -> None:
    node = site.node
    while len(node.inputs) > old.max_input and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if len(node.inputs) > old.max_input:
        extra = len(node.inputs) - 1
        raise Impossible(f"it took no more than {old.max_input} inputs, not {extra + 1}")
    if len(node.inputs) < old.min_input:
        raise Impossible(f"it took at least {old.min_input} inputs")
    used = [o for o in node.outputs[old.max_output :] if o.uses() or o.is_graph_output()]
    if used:
        raise Impossible(f"it had no more than {old.max_output} outputs")
    if len(node.outputs) > old.max_output:
        node.resize_outputs(old.max_output)


def _fit_types(site: Site, old: onnx.defs.OpSchema) -> None:
    """See that the older version took these types; what is not known has to be read by ONNX."""
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in old.type_constraints}
    for values, formals in ((site.node.inputs, old.inputs), (site.node.outputs, old.outputs)):
        for index, value in enumerate(values):
            if value is None or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            types = allowed.get(formal.type_str, {formal.type_str})
            found = _type_of(site, value)
            if found is not None and found not in types:
                raise Impossible(f"it did not take {found} yet")


def _type_of(site: Site, value: ir.Value) -> str | None:
    dtype = site.facts.types(value) or value.dtype
    if dtype is None:
        return None
    element = onnx.helper.tensor_dtype_to_string(int(dtype)).removeprefix("TensorProto.").lower()
    tensor = f"tensor({element})"
    if isinstance(value.type, ir.SequenceType):
        return f"seq({tensor})"
    return f"optional({tensor})" if isinstance(value.type, ir.OptionalType) else tensor


def _lower_ir_version(model: ir.Model, version: int) -> None:
    paired = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    needed = [paired, _NO_INPUTS_SINCE, _FUNCTIONS_SINCE if model.functions else 0]
    names = {dtype.name for dtype in _dtypes(model)}
    needed += [since for since, types in _TYPES_SINCE.items() if types & names]
    model.ir_version = min(model.ir_version or max(needed), max(needed))


def _dtypes(model: ir.Model) -> set[ir.DataType]:
    return {
        value.dtype
        for scope in scopes(model)
        for value in (
            *scope.graph.inputs,
            *scope.graph.initializers.values(),
            *(output for node in scope.graph for output in node.outputs),
        )
        if value.dtype is not None
    }
