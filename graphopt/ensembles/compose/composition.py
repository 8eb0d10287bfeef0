"""Many models in one graph, which nothing is lost in and nothing clashes in."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.ensembles.compose.completion import complete
from graphopt.ensembles.compose.copying import Copier, Identifier, identity
from graphopt.ensembles.compose.devices import merge_devices
from graphopt.ensembles.compose.dims import Dims, InstanceDims, bound_symbols
from graphopt.ensembles.compose.domains import align, lowest_ir_version
from graphopt.ensembles.compose.functions import Functions
from graphopt.ensembles.compose.inputs import Inputs, read_mapping
from graphopt.ensembles.compose.localize import hoist, shareable
from graphopt.ensembles.compose.prepare import prepare
from graphopt.ensembles.compose.signature import Signature, signature_of
from graphopt.errors import GraphoptError
from graphopt.pipeline.registry import nearest


@dataclass
class _Member:
    """What is placed when a member is placed.

    Args:
        name: Of the member.
        model: Its own copy.
        signature: What it takes and gives.
        weights: Its initializers, as values of the ensemble.
        calls: Functions that have another identifier in the ensemble.
        devices: Device configurations that are others in the ensemble, by their name.
        symbols: The symbols of its inputs.
        inner: Initializers of its bodies that instances can share.
        shared: The first instance's copies of them.
    """

    name: str
    model: ir.Model
    signature: Signature
    weights: dict[ir.Value, ir.Value]
    calls: dict[Identifier, Identifier]
    devices: dict[str, ir.ModelConfiguration]
    symbols: frozenset[str]
    inner: tuple[ir.Value, ...]
    shared: dict[ir.Value, ir.Value] = field(default_factory=dict)


class Composition:
    """An ensemble under construction: the weights of all members, and instances of them.

    Members stay as they are; tensors are shared with them and stay memory-mapped. All members are
    raised to one version of their operators (`opset`, 13 at least), the IR version is the highest
    of theirs, functions are brought in (equal ones once, clashing ones under another name), and
    metadata are kept as `member/key`. Symbolic dims of different members claim no equality.

    Args:
        members: Models by name. A name is made of letters, digits and underscores.
        mapping: `member.input` with the name of the ensemble's input that it is.

    Raises:
        GraphoptError: The members cannot stand in one model, or the mapping fits none.
    """

    def __init__(
        self, members: Mapping[str, ir.Model], *, mapping: Mapping[str, str] | None = None
    ) -> None:
        if not members:
            raise GraphoptError("an ensemble needs a member", fix="name one: a=model.onnx")
        self.notes: list[str] = []
        copies: dict[str, ir.Model] = {}
        for name, model in members.items():
            prepared = prepare(name, model)
            copies[name] = prepared.model
            self.notes += [f"left out of member {name!r}: {what}" for what in prepared.lost]
        imports = align(copies)
        self.opset: int = imports[""]
        graph = ir.Graph([], [], nodes=[], opset_imports=imports, name="ensemble")
        self.model = ir.Model(
            graph,
            ir_version=max(
                lowest_ir_version(self.opset), *(model.ir_version or 0 for model in copies.values())
            ),
            producer_name="graphopt",
            producer_version=importlib.metadata.version("graphopt"),
        )
        functions = Functions(copies)
        configurations = merge_devices(self.model, members)
        self._members = {
            name: self._bring(name, model, functions, configurations[name])
            for name, model in copies.items()
        }
        self.model.functions.update(functions.found)
        for name, model in members.items():
            _keep_metadata(name, model, self.model)
        signatures = {name: member.signature for name, member in self._members.items()}
        self._dims = Dims()
        self._inputs = Inputs(
            graph, self._dims, self.notes, read_mapping(mapping or {}, signatures), signatures
        )
        self._placed: Counter[str] = Counter()
        self._prefixes = set(copies)
        self._declared: dict[ir.Value, None] = {}

    def signature(self, member: str) -> Signature:
        """Return the inputs and outputs of a member, as its own file has them.

        Raises:
            GraphoptError: There is no such member.
        """
        return self._member(member).signature

    def input(self, member: str, name: str) -> ir.Value:
        """Return what feeds an input of a member from outside: an input of the ensemble.

        It is created on first use. Inputs of members are one where their names, types and shapes
        agree (a dynamic dim agrees with any size, which it then takes), or where the mapping says
        so; the mapping also unifies floats, or integers, of different width, by a Cast.

        Args:
            member: The member.
            name: Of its input. One that has a default is that weight, unless it is mapped.

        Raises:
            GraphoptError: There is no such member or input, or the mapping unifies what differs in
                type, rank or size.
        """
        found = self._member(member)
        values = _inputs_of(found)
        if name not in values:
            raise _no_input(found, name)
        value = values[name]
        if value.is_initializer() and not self._inputs.is_mapped(member, name):
            return self._default(found, value)
        ports = (*found.signature.inputs, *found.signature.defaults)
        wanted = next(each for each in ports if each.name == name)
        return self._inputs.of(member, wanted, value)

    def place(
        self, member: str, bindings: Mapping[str, ir.Value], graph: ir.Graph
    ) -> dict[str, ir.Value]:
        """Put an instance of a member's nodes at the end of a graph.

        Instances share weights, which stay in the main graph. The values and nodes of the first
        are called `member/name`, of the second `member_2/name`, and so on.

        Args:
            member: The member.
            bindings: What each of its inputs reads; inputs that have a default may be left out.
            graph: The main graph of `model`, or a body that belongs to it or will.

        Returns:
            The outputs by name, in order. In the main graph an output of a member that is its
            input or a weight is what was bound, or the weight; in a body an Identity of it.

        Raises:
            GraphoptError: There is no such member, or the bindings are not its inputs.
        """
        found = self._member(member)
        inputs = self._bound(found, bindings)
        for weight in found.shared.values():
            hoist(weight, self.model)
        prefix = self._prefix(member)
        pairs = [(value.shape, bound.shape) for value, bound in inputs.items()]
        dims = InstanceDims(self._dims, prefix, bound_symbols(pairs), found.symbols)
        copier = Copier(
            member,
            known={**found.weights, **found.shared, **inputs},
            rename=lambda name: f"{prefix}/{name}",
            dim=dims,
            calls=found.calls,
            devices=found.devices,
        )
        graph.extend(copier.nodes(found.model.graph))
        copier.annotate(inputs)
        found.shared.update({weight: copier.known[weight] for weight in found.inner})
        self._declared.update(dict.fromkeys(inputs.values()))
        return {
            output.name or "": self._out(copier.read(output, "the output list"), graph, prefix)
            for output in found.model.graph.outputs
        }

    def finish(self, outputs: Mapping[str, ir.Value]) -> ir.Model:
        """Name the outputs, drop what nothing reads, check, and return the model.

        Nodes, weights and functions that no output needs go, and so do inputs that only such nodes
        have read. Inputs stand in the order of their first use, those with defaults last. An
        output that is an input, a weight, or another output already, is an Identity of it.

        Args:
            outputs: Values of the main graph by the names they get.

        Raises:
            GraphoptError: Nothing is an output, or `onnx.checker` refuses the model and no member.
        """
        copies = {name: member.model for name, member in self._members.items()}
        complete(self.model, outputs, self._dims, self._declared, copies, self.notes)
        return self.model

    def _member(self, name: str) -> _Member:
        if name not in self._members:
            raise GraphoptError(f"there is no member {name!r}", fix=nearest(name, self._members))
        return self._members[name]

    def _bring(
        self,
        name: str,
        model: ir.Model,
        functions: Functions,
        devices: dict[str, ir.ModelConfiguration],
    ) -> _Member:
        copier = Copier(name, rename=lambda inner: f"{name}/{inner}")
        for value in model.graph.initializers.values():
            weight = copier.value(value)
            weight.shape = None if value.shape is None else value.shape.copy()
            self.model.graph.initializers.add(weight)
        copier.annotate()
        shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
        return _Member(
            name,
            model,
            signature_of(model),
            copier.known,
            functions.bring(name, model),
            devices,
            frozenset(
                dim.value
                for shape in shapes
                for dim in shape
                if isinstance(dim, ir.SymbolicDim) and dim.value is not None
            ),
            tuple(shareable(model)),
        )

    def _bound(self, member: _Member, bindings: Mapping[str, ir.Value]) -> dict[ir.Value, ir.Value]:
        names = _inputs_of(member)
        for name in bindings:
            if name not in names:
                raise _no_input(member, name)
        bound: dict[ir.Value, ir.Value] = {}
        for name, value in names.items():
            if name in bindings:
                bound[value] = bindings[name]
            elif value.is_initializer():
                bound[value] = self.input(member.name, name)
            else:
                raise GraphoptError(
                    f"input {name!r} of member {member.name!r} is fed by nothing",
                    fix="bind all of its inputs",
                )
        return bound

    def _default(self, member: _Member, value: ir.Value) -> ir.Value:
        """Return an input that has a default: a weight that the caller may override."""
        weight = member.weights[value]
        if not weight.is_graph_input():
            self.model.graph.inputs.append(weight)
            self.notes.append(
                f"input {value.name!r} of member {member.name!r} has a default; it may be"
                f" overridden as {weight.name!r}"
            )
        return weight

    def _prefix(self, member: str) -> str:
        """Return the name of the next instance of a member, which no other one has."""
        self._placed[member] += 1
        if self._placed[member] == 1:
            return member
        while (prefix := f"{member}_{self._placed[member]}") in self._prefixes:
            self._placed[member] += 1
        self._prefixes.add(prefix)
        return prefix

    def _out(self, value: ir.Value, graph: ir.Graph, prefix: str) -> ir.Value:
        """Return an output of an instance that a body may return, too."""
        producer = value.producer()
        if graph is self.model.graph or (producer is not None and producer.graph is graph):
            return value
        return identity(graph, value, f"{prefix}/output/{value.name}")


def _no_input(member: _Member, name: str) -> GraphoptError:
    return GraphoptError(
        f"member {member.name!r} has no input {name!r}", fix=nearest(name, _inputs_of(member))
    )


def _inputs_of(member: _Member) -> dict[str, ir.Value]:
    return {value.name or "": value for value in member.model.graph.inputs}


def _keep_metadata(name: str, member: ir.Model, ensemble: ir.Model) -> None:
    for key, text in member.metadata_props.items():
        ensemble.metadata_props[f"{name}/{key}"] = text
    for key, text in member.graph.metadata_props.items():
        ensemble.graph.metadata_props[f"{name}/{key}"] = text
    for said in (member.doc_string, member.graph.doc_string):
        if said:
            ensemble.metadata_props.setdefault(f"{name}/doc_string", said)
