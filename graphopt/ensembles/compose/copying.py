"""Copies of nodes under other names: what placing a member in a graph is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.carried import EXTRAS_KEY, TYPE_KEY
from graphopt.pipeline.snapshot import own_type

Identifier = tuple[str, str, str]
"""Domain, name and overload of an operator or function."""

Dim = int | ir.SymbolicDim | None

ANNOTATED = "quant_parameter_tensor_names"
"""Where onnx-ir keeps the quantization annotation of a value: names by role."""

ANNOTATION = "graphopt.ensembles.annotation"
"""Where copies keep it until their names are final: values by role."""


def _same(name: str) -> str:
    return name


def _same_dim(dim: Dim) -> Dim:
    return dim


@dataclass
class Copier:
    """Copies nodes with their bodies; tensors and attributes are shared.

    Nodes may stand in any order. What the nodes read must be known or among their outputs.

    Args:
        owner: Whose nodes these are, for messages.
        known: Values to read in the place of others, weights of bodies among them; grows by what
            is copied.
        rename: Gives the name of a copied value or node.
        dim: Gives the dim of a copied value.
        calls: Functions that are called by another identifier.
        devices: Device configurations that are others in the copy.
    """

    owner: str
    known: dict[ir.Value, ir.Value] = field(default_factory=dict)
    rename: Callable[[str], str] = _same
    dim: Callable[[Dim], Dim] = _same_dim
    calls: Mapping[Identifier, Identifier] = field(default_factory=dict)
    devices: Mapping[str, ir.ModelConfiguration] = field(default_factory=dict)
    _annotated: list[ir.Value] = field(default_factory=list, init=False)

    def value(self, original: ir.Value) -> ir.Value:
        """Copy a value that is made here: an input, an initializer or an output of a node."""
        is_weight = original.is_initializer()
        copied = ir.Value(
            name=self.rename(original.name) if original.name else original.name,
            type=own_type(original.type),
            shape=self.shape(original.shape),
            doc_string=original.doc_string,
            const_value=original.const_value if is_weight else None,
            metadata_props=dict(original.metadata_props) or None,
        )
        if original.meta:
            copied.meta.update(original.meta)
            if ANNOTATED in original.meta:
                self._annotated.append(original)
        self.known[original] = copied
        return copied

    def shape(self, shape: ir.Shape | None) -> ir.Shape | None:
        """Copy a shape."""
        if shape is None or self.dim is _same_dim:
            return None if shape is None else shape.copy()
        denotations = [shape.get_denotation(axis) for axis in range(len(shape))]
        return ir.Shape(map(self.dim, shape), denotations)

    def nodes(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """Copy nodes; the caller puts them into a graph."""
        originals = list(nodes)
        for node in originals:
            for output in node.outputs:
                self.value(output)
        return [self._node(node) for node in originals]

    def graph(self, graph: ir.Graph) -> ir.Graph:
        """Copy a body or the graph of a function."""
        inputs = [self.value(value) for value in graph.inputs]
        weights = [
            self.known[value] if value.is_graph_input() else self.value(value)
            for value in graph.initializers.values()
            if value.is_graph_input() or value not in self.known
        ]
        nodes = self.nodes(graph)
        copied = ir.Graph(
            inputs,
            [self.read(value, "the output list") for value in graph.outputs],
            nodes=nodes,
            initializers=weights,
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props) or None,
        )
        copied.meta.update({key: kept for key, kept in graph.meta.items() if key != EXTRAS_KEY})
        return copied

    def annotate(self, bound: Iterable[ir.Value] = ()) -> None:
        """Let the quantization annotations of all copies so far refer to values of the copy.

        Args:
            bound: Values that are others in the copy; these take their annotations over, too, if
                they are inputs of a graph and have none.
        """
        for value in bound:
            there = self.known[value]
            if there.is_graph_input() and not {ANNOTATION, ANNOTATED} & there.meta.keys():
                self._annotated += [value] if ANNOTATED in value.meta else []
        if not self._annotated:
            return
        by_name = {value.name: copied for value, copied in self.known.items()}
        for original in self._annotated:
            roles = original.meta[ANNOTATED].items()
            meta = self.known[original].meta
            meta[ANNOTATION] = {role: by_name[name] for role, name in roles if name in by_name}
        self._annotated.clear()

    def read(self, value: ir.Value, reader: str) -> ir.Value:
        """Return what stands for a value in the copy."""
        found = self.known.get(value)
        if found is None:
            raise GraphoptError(
                f"member {self.owner!r}: {reader} reads {value.name!r}, which nothing provides",
                fix="export the model again",
            )
        return found

    def _node(self, node: ir.Node) -> ir.Node:
        # An overload that is no function of the model is part of the operator's own name.
        domain, op_type, overload = self.calls.get(node.op_identifier(), node.op_identifier())
        called = node.name or node.op_type
        copied = ir.Node(
            domain,
            op_type,
            [None if value is None else self.read(value, called) for value in node.inputs],
            [self._attribute(attribute) for attribute in node.attributes.values()],
            overload=overload,
            outputs=[self.known[output] for output in node.outputs],
            name=self.rename(node.name) if node.name else node.name,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props) or None,
            device_configurations=self._devices(node),
        )
        copied.meta.update(node.meta)
        return copied

    def _attribute(self, attribute: ir.Attr) -> ir.Attr:
        if attribute.is_ref():
            return attribute
        if attribute.type == ir.AttributeType.GRAPH:
            body = self.graph(attribute.as_graph())
            return ir.AttrGraph(attribute.name, body, attribute.doc_string)
        if attribute.type == ir.AttributeType.GRAPHS:
            inside = [self.graph(body) for body in attribute.as_graphs()]
            return ir.AttrGraphs(attribute.name, inside, attribute.doc_string)
        return attribute

    def _devices(self, node: ir.Node) -> tuple[ir.NodeDeviceConfiguration, ...]:
        found = []
        for configuration in node.device_configurations:
            devices = configuration.configuration
            specs = tuple(
                dataclasses.replace(spec, value=self.known.get(spec.value, spec.value))
                if spec.value is not None
                else spec
                for spec in configuration.sharding_specs
            )
            named = devices if devices is None else self.devices.get(devices.name, devices)
            found.append(
                dataclasses.replace(configuration, configuration=named, sharding_specs=specs)
            )
        return tuple(found)


def identity(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Return a value of this name that is equal to another, made at the end of a graph."""
    shape = None if value.shape is None else value.shape.copy()
    copied = ir.Value(name=name, type=own_type(value.type), shape=shape)
    if TYPE_KEY in value.meta:
        copied.meta[TYPE_KEY] = value.meta[TYPE_KEY]
    graph.append(ir.Node("", "Identity", [value], outputs=[copied], name=f"{name}_identity"))
    return copied
