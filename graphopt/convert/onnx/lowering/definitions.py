"""Operators that an older version lacks, written as ONNX itself defines them by others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx.inliner
import onnx_ir as ir

from graphopt.convert.finishing import cleaned
from graphopt.convert.onnx.operators import schema_of
from graphopt.errors import GraphoptError
from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, add_constant, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opset_changes import Facts
from graphopt.rewrite.uses import replace

Lowers = Callable[[ir.Node, Scope, Facts], bool]
"""Whether a node can be written in the older version as it is."""

PART_OF = "graphopt.part_of"
"""Where, in the `meta` of a node, stands what it is a part of."""

_LOCAL = "graphopt.definition"

_DEEPEST = 8
"""Definitions that use operators with definitions; ONNX's own nest twice."""


def write_definitions(model: ir.Model, version: int, lowers: Lowers) -> Facts:
    """Put the definition in the place of each node that has one and cannot be lowered, in place.

    A definition is written in the version that its scope is in, where what follows lowers it.

    Args:
        model: The model.
        version: The version to lower to; scopes that are no newer stay.
        lowers: Decides.

    Returns:
        What is known of the model then.
    """
    facts = _facts(model)
    for _ in range(_DEEPEST):
        written = [
            _write_definition(node, scope, opset(model, scope.function), facts)
            for scope in scopes(model)
            if opset(model, scope.function) > version
            for node in _own_nodes(model, scope)
            if not lowers(node, scope, facts)
        ]
        if not any(written):
            break
        Names.forget(model)
        facts = _facts(model)
    return facts


def _facts(model: ir.Model) -> Facts:
    """Read all types and shapes now, before the next edit."""
    facts = Facts(model)
    facts.types(None)
    facts.shapes.rank(None)
    return facts


def _own_nodes(model: ir.Model, scope: Scope) -> list[ir.Node]:
    return [
        node
        for node in scope.graph
        if node.domain in ONNX_DOMAINS and node.op_identifier() not in model.functions
    ]


def _write_definition(node: ir.Node, scope: Scope, version: int, facts: Facts) -> bool:
    """Put a node's definition in its place; return False where it has none."""
    for written in _versions(node, version):
        definition = _definition(node, written, facts)
        if definition is not None:
            break
    else:
        return False
    if written > version:
        # Not at the top: what lowers a definition may need one itself.
        from graphopt.convert.onnx.lowering import lower_opset

        try:
            lower_opset(definition, version)
        except GraphoptError:
            return False
    _splice(node, scope, definition.graph, facts)
    return True


def _versions(node: ir.Node, version: int) -> Iterator[int]:
    """The versions to look for a definition in: newer ones, too, where the operator is the same."""
    yield version
    schema = schema_of(node.op_type, version)
    if schema is None:
        return
    # The stubs of onnx leave out what is asked here, and below.
    for later in sorted(schema.all_function_opset_versions):  # type: ignore[attr-defined] # stubs
        newer = schema_of(node.op_type, later)
        if later > version and newer is not None and newer.since_version == schema.since_version:
            yield later


def _definition(node: ir.Node, version: int, facts: Facts) -> ir.Model | None:
    """Return a model of nothing but what a node is defined by; None: it has no definition.

    A definition may depend on the node's attributes, on the types of its inputs, and on which of
    its inputs and outputs there are.
    """
    attributes = node.attributes.values()
    if any(item.is_ref() or item.type == ir.AttributeType.GRAPH for item in attributes):
        return None
    inputs = {value.name: _typed(value, facts) for value in node.inputs if value is not None}
    typed = all(info.type.WhichOneof("value") for info in inputs.values())
    schema = schema_of(node.op_type, version)
    if schema is None or not (typed or schema.has_function):  # type: ignore[attr-defined] # stubs
        return None
    proto = ir.serde.serialize_node(node)
    proto.attribute.extend(_defaults(node, schema))
    outputs = [_typed(value, facts) for value in node.outputs if value.name]
    graph = onnx.helper.make_graph([proto], "definition", list(inputs.values()), outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    try:
        if None in node.inputs:
            _name_definition(model, proto, schema, version)
            inlined = onnx.inliner.inline_local_functions(model)
        else:
            inlined = onnx.inliner.inline_selected_functions(
                model, [("", node.op_type)], inline_schema_functions=True
            )
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        # The inliner asserts what it expects of types; what it refuses has no definition here.
        return None
    if any(part.op_type == node.op_type for part in inlined.graph.node):
        return None
    del inlined.opset_import[1:]
    # Definitions serve all ranks and options: three nodes of four are constant here.
    return cleaned(ir.from_proto(inlined), keep_notes=True)


def _name_definition(
    model: onnx.ModelProto, node: onnx.NodeProto, schema: onnx.defs.OpSchema, version: int
) -> None:
    """Make a definition a function of the model, and its node a call of that.

    The inliner asks for the type of each input of an operator, also of one that is left out.
    """
    types = {info.name: info.type.SerializeToString() for info in model.graph.input}
    written = schema.get_context_dependent_function(  # type: ignore[attr-defined] # stubs
        node.SerializeToString(), [types.get(name, b"") for name in node.input]
    )
    function = onnx.FunctionProto.FromString(written)
    function.domain = _LOCAL
    if any(entry.version > version for entry in function.opset_import if not entry.domain):
        raise ValueError("the definition is newer than the model")
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid(_LOCAL, 1))
    model.graph.node[0].domain = _LOCAL


def _typed(value: ir.Value, facts: Facts) -> onnx.ValueInfoProto:
    dtype = facts.types(value) or value.dtype
    if dtype is None:
        return onnx.ValueInfoProto(name=value.name)
    shape = facts.shapes.shape(value)
    return onnx.helper.make_tensor_value_info(value.name or "", dtype, shape)


def _defaults(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[onnx.AttributeProto]:
    """The attributes that a node leaves out; definitions refer to them by name."""
    for name, known in schema.attributes.items():
        if name not in node.attributes and known.default_value.type:
            yield known.default_value


def _splice(node: ir.Node, scope: Scope, parts: ir.Graph, facts: Facts) -> None:
    """Move the parts in front of a node, give them its surroundings, and drop the node."""
    title = node.meta.get(PART_OF, f"{node.op_type} {scope.at(node.name or _first(node))!r}")
    given = {value.name: value for value in node.inputs if value is not None}
    for value in parts.inputs:
        value.replace_all_uses_with(given[value.name])
    for value in list(parts.initializers.values()):
        if value.const_value is not None:
            name = facts.names.fresh(f"{_first(node)}_{value.name}")
            in_function = scope.function is not None
            constant = add_constant(node, name, value.const_value, in_function=in_function)
            value.replace_all_uses_with(constant)
    ends = {value.name: value for value in parts.outputs}
    parts.outputs.clear()
    for part in ir.traversal.RecursiveGraphIterator(parts):
        part.meta[PART_OF] = title
        part.doc_string = node.doc_string
        part.metadata_props.update(node.metadata_props)
        inner = [value for body in bodies(part) for value in body.inputs]
        for value in (*inner, *part.outputs):
            value.name = facts.names.fresh(f"{_first(node)}_{value.name}")
        part.name = _first(part)
    moved = list(parts)
    parts.remove(moved)
    if node.graph is None:
        raise ValueError(f"{node.name!r} is in no graph")
    node.graph.insert_before(node, moved)
    for old in node.outputs:
        if old.name in ends:
            _take_place(old, ends[old.name])
    node.graph.remove(node, safe=True)


def _take_place(old: ir.Value, new: ir.Value) -> None:
    name, kind, shape = old.name, old.type, old.shape
    replace(old, new)
    new.name, new.type, new.shape = name, kind, shape
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)


def _first(node: ir.Node) -> str:
    return node.outputs[0].name or node.op_type
