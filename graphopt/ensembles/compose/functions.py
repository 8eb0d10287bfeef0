"""The functions of many models in one: equal ones once, others of the same name renamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from graphopt.ensembles.compose.copying import Copier, Identifier
from graphopt.ensembles.compose.prepare import copy_function
from graphopt.errors import GraphoptError
from graphopt.model.calls import called_by, callees_first, in_circles, operators_of
from graphopt.model.serialize import attribute_proto

_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Functions:
    """The functions of an ensemble.

    Args:
        members: The members' own copies.
    """

    def __init__(self, members: Mapping[str, ir.Model]) -> None:
        self.found: dict[Identifier, ir.Function] = {}
        self._faces: dict[Identifier, str] = {}
        self._wanted: dict[Identifier, set[str]] = {}
        defining = any(model.functions for model in members.values())
        for name, model in members.items() if defining else ():
            for identifier in _undefined(model):
                self._wanted.setdefault(identifier, set()).add(name)

    def bring(self, member: str, model: ir.Model) -> dict[Identifier, Identifier]:
        """Take a member's functions in.

        Returns:
            What those that got another identifier are called now.

        Raises:
            GraphoptError: They call each other in a circle.
        """
        renamed: dict[Identifier, Identifier] = {}
        _check_no_circle(member, model)
        for before in callees_first(model):
            function = model.functions[before]
            copied = copy_function(Copier(member, calls=renamed), function, before)
            face = _face(copied)
            after = self._place_for(member, before, face)
            if after not in self.found:
                copied.domain, copied.name, copied.overload = after
                self.found[after] = copied
                self._faces[after] = face
            if after != before:
                renamed[before] = after
        return renamed

    def _place_for(self, member: str, identifier: Identifier, face: str) -> Identifier:
        domain, name, overload = identifier
        candidate, number = identifier, 1
        while not self._fits(member, candidate, face):
            suffix = member if number == 1 else f"{member}_{number}"
            candidate = (domain, f"{name}_{suffix}", overload)
            number += 1
        return candidate

    def _fits(self, member: str, identifier: Identifier, face: str) -> bool:
        # What another member calls by this name is an operator of the runtime, or this function
        # would take its place.
        if self._wanted.get(identifier, set()) - {member}:
            return False
        return self._faces.get(identifier, face) == face


def _undefined(model: ir.Model) -> Iterator[Identifier]:
    """Yield what a model calls that is no function of it."""
    everything = operators_of(model.graph)
    for function in model.functions.values():
        everything |= operators_of(function)
    yield from everything - set(model.functions)


def _check_no_circle(member: str, model: ir.Model) -> None:
    left = in_circles(model)
    if not left:
        return
    # Each of these calls another of these: whoever follows the calls comes by one twice.
    seen: set[Identifier] = set()
    identifier = min(left)
    while identifier not in seen:
        seen.add(identifier)
        identifier = min(called_by(model, model.functions[identifier]) & left)
    raise GraphoptError(
        f"member {member!r}: the function {identifier[1]!r} calls itself",
        fix="export the model again",
    )


def _face(function: ir.Function) -> str:
    """Return a hash that is equal for functions that compute the same in the same way.

    Names of values and nodes do not matter; those of attributes, and the order of inputs do.
    """
    digest = hashlib.sha256()
    for name, attribute in sorted(function.attributes.items()):
        digest.update(repr((name, attribute.type.name)).encode())
        for part in _attribute_face(attribute):
            digest.update(part)
    used = {node.domain for node in function}
    imports = {key or "ai.onnx": version for key, version in function.opset_imports.items()}
    digest.update(repr(sorted((k, v) for k, v in imports.items() if k in used)).encode())
    for part in _graph_face(function.graph, {}):
        digest.update(part)
    return digest.hexdigest()


def _graph_face(graph: ir.Graph, numbers: dict[ir.Value | None, int]) -> Iterator[bytes]:
    def number(value: ir.Value | None) -> int:
        return numbers.setdefault(value, len(numbers)) if value is not None else -1

    yield repr([number(value) for value in graph.inputs]).encode()
    for value in graph.initializers.values():
        yield repr(number(value)).encode()
        if value.const_value is not None:
            yield from _tensor_face(value.const_value)
    for node in graph:
        yield repr(node.op_identifier()).encode()
        yield repr([number(value) for value in node.inputs]).encode()
        for name, attribute in sorted(node.attributes.items()):
            yield name.encode()
            if attribute.is_ref() or attribute.type not in _GRAPHS:
                yield from _attribute_face(attribute)
                continue
            is_one = attribute.type == ir.AttributeType.GRAPH
            for body in [attribute.as_graph()] if is_one else attribute.as_graphs():
                yield from _graph_face(body, numbers)
        yield repr([number(value) if value.name else -1 for value in node.outputs]).encode()
    yield repr([number(value) for value in graph.outputs]).encode()


def _attribute_face(attribute: ir.Attr) -> Iterator[bytes]:
    if attribute.is_ref():
        yield repr(("ref", attribute.ref_attr_name, attribute.type.name)).encode()
    elif attribute.type in _TENSORS and attribute.value is not None:
        is_one = attribute.type == ir.AttributeType.TENSOR
        for tensor in [attribute.as_tensor()] if is_one else attribute.as_tensors():
            yield from _tensor_face(tensor)
    elif attribute.value is not None:
        yield attribute_proto(attribute).SerializeToString(deterministic=True)


def _tensor_face(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    yield repr((tensor.dtype.name, list(tensor.shape))).encode()
    if tensor.dtype == ir.DataType.STRING:
        yield repr(tensor.numpy().tolist()).encode()
    else:
        yield tensor.tobytes()
