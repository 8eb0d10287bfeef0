"""Put what onnx-ir does not write into the proto that it wrote, where the tags are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx

from graphopt.model.carried import SPARSE_LOCATION, Extras


@dataclass
class Tagged:
    """What belongs where a tag is: the marker and an index.

    Args:
        marker: Occurs nowhere else in the model.
    """

    marker: str
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list)
    attributes: list[onnx.AttributeProto] = field(default_factory=list)
    types: list[onnx.TypeProto] = field(default_factory=list)
    extras: list[Extras] = field(default_factory=list)

    @property
    def sparse_location(self) -> str:
        """The location of an initializer that is to be stored sparse."""
        return self.marker + SPARSE_LOCATION

    def __bool__(self) -> bool:
        return bool(self.sparse or self.attributes or self.types or self.extras)

    def add_sparse(self, proto: onnx.SparseTensorProto) -> int:
        """Return the index under which a sparse initializer is kept."""
        return _add(self.sparse, proto)

    def add_attribute(self, proto: onnx.AttributeProto) -> int:
        """Return the index under which an attribute is kept."""
        return _add(self.attributes, proto)

    def add_type(self, proto: onnx.TypeProto) -> int:
        """Return the index under which a type is kept."""
        return _add(self.types, proto)

    def add_extras(self, extras: Extras) -> int:
        """Return the index under which the extras of a graph are kept."""
        return _add(self.extras, extras)


def _add(items: list[Any], item: object) -> int:
    items.append(item)
    return len(items) - 1


def untag(model: onnx.ModelProto, tagged: Tagged) -> None:
    """Exchange the tags in a model for what they stand for, in place."""
    if not tagged:
        return
    _graph(model.graph, tagged)
    for function in model.functions:
        _infos(function.value_info, tagged)
        _attributes(function.attribute_proto, tagged)
        for node in function.node:
            _attributes(node.attribute, tagged)
    for extras in tagged.extras:
        model.training_info.extend(extras.training)


def _graph(graph: onnx.GraphProto, tagged: Tagged) -> None:
    for infos in (graph.input, graph.output, graph.value_info):
        _infos(infos, tagged)
    _sparse(graph, tagged)
    index = _take(graph.metadata_props, tagged.marker)
    if index is not None:
        _extras(graph, tagged.extras[index])
    for node in graph.node:
        _attributes(node.attribute, tagged)


def _infos(infos: Iterable[onnx.ValueInfoProto], tagged: Tagged) -> None:
    for info in infos:
        index = _take(info.metadata_props, tagged.marker) if info.metadata_props else None
        if index is not None:
            info.type.CopyFrom(tagged.types[index])


def _take(entries: Any, key: str) -> int | None:
    """Remove an entry from metadata and return its index."""
    for position, entry in enumerate(entries):
        if entry.key == key:
            index = int(entry.value)
            del entries[position]
            return index
    return None


def _sparse(graph: onnx.GraphProto, tagged: Tagged) -> None:
    dense = []
    for tensor in graph.initializer:
        data = tensor.external_data
        if data and data[0].value == tagged.sparse_location:
            sparse = graph.sparse_initializer.add()
            sparse.CopyFrom(tagged.sparse[int(data[1].value)])
            sparse.values.name = tensor.name
        else:
            dense.append(tensor)
    if len(dense) < len(graph.initializer):
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in dense]
        graph.ClearField("initializer")
        graph.initializer.extend(kept)


def _extras(graph: onnx.GraphProto, extras: Extras) -> None:
    known = {info.name: info for info in (*graph.input, *graph.output)}
    written = {info.name for info in graph.value_info}
    for info in extras.value_info:
        other = known.get(info.name)
        if info.name not in written and (other is None or _agree(info.type, other.type)):
            graph.value_info.add().CopyFrom(info)
    annotated = {annotation.tensor_name for annotation in graph.quantization_annotation}
    for annotation in extras.annotations:
        if annotation.tensor_name not in annotated:
            graph.quantization_annotation.add().CopyFrom(annotation)


def _agree(one: onnx.TypeProto, other: onnx.TypeProto) -> bool:
    """Whether two types of one value do not contradict: what a pass changed is not said again."""
    which = one.WhichOneof("value")
    if which is None or which != other.WhichOneof("value"):
        return which is None
    left, right = getattr(one, which), getattr(other, which)
    if which != "tensor_type":
        return bool(left == right)
    if left.elem_type != right.elem_type:
        return False
    if not (left.HasField("shape") and right.HasField("shape")):
        return True
    dims = (left.shape.dim, right.shape.dim)
    return len(dims[0]) == len(dims[1]) and all(
        a.dim_value == b.dim_value
        for a, b in zip(*dims, strict=True)
        if a.HasField("dim_value") and b.HasField("dim_value")
    )


def _attributes(attributes: Iterable[onnx.AttributeProto], tagged: Tagged) -> None:
    tag = tagged.marker.encode()
    for attribute in attributes:
        if attribute.type == onnx.AttributeProto.STRING and attribute.s.startswith(tag):
            attribute.CopyFrom(tagged.attributes[int(attribute.s[len(tag) :])])
        if attribute.HasField("g"):
            _graph(attribute.g, tagged)
        for graph in attribute.graphs:
            _graph(graph, tagged)
