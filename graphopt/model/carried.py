"""What onnx-ir cannot hold: set aside when a model is loaded, put back when it is saved.

Each such part of a model is exchanged for something that onnx-ir holds, with a tag: a marker that
occurs nowhere else in the file, and an index. In the loaded model the part lives in `meta`, which
clones of the model share, or as the value of an attribute:

- the types of values that are maps, opaque, or incomplete: `value.meta`,
- `value_info` and quantization annotations of names that no value has: `graph.meta`,
- `training_info`: `graph.meta` of the main graph,
- sparse initializers: initializers that are a `SparseTensor`,
- sparse attributes: a `SparseTensor`, or `Carried` where there are several,
- map types in attributes: `Carried`; strings that are not UTF-8: bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.model.scopes import scopes

TYPE_KEY = "graphopt.type"
EXTRAS_KEY = "graphopt.extras"
VALUE_INFO_KEY = "graphopt.value_info"
SPARSE_LOCATION = "sparse"

_TYPES = frozenset({"tensor_type", "sparse_tensor_type"})
_NESTED = frozenset({"sequence_type", "optional_type"})
Kind = onnx.AttributeProto
_FUNCTION_VALUE_INFO_VERSION = 10


@dataclass(frozen=True)
class Carried:
    """The value of an attribute that onnx-ir cannot hold.

    Args:
        proto: The whole attribute.
    """

    proto: onnx.AttributeProto


@dataclass
class Extras:
    """What belongs to a graph and to no value of it.

    Args:
        value_info: Types of names that no value of the graph has, or has twice.
        annotations: Quantization annotations of such names.
        training: The training information of a model, on its main graph.
        trained: Types and shapes of the values that the training information refers to.
    """

    value_info: list[onnx.ValueInfoProto] = field(default_factory=list)
    annotations: list[onnx.TensorAnnotation] = field(default_factory=list)
    training: list[onnx.TrainingInfoProto] = field(default_factory=list)
    trained: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.value_info or self.annotations or self.training)


@dataclass
class Aside:
    """What was taken out of a ModelProto so that onnx-ir can read the rest.

    Args:
        marker: Starts every tag.
    """

    marker: str
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list)
    attributes: list[onnx.AttributeProto] = field(default_factory=list)
    types: list[onnx.TypeProto] = field(default_factory=list)
    extras: list[Extras] = field(default_factory=list)

    def set_aside(self, model: onnx.ModelProto) -> None:
        """Take out of a model, in place, what onnx-ir cannot hold."""
        for function in model.functions:
            for attribute in function.attribute_proto:
                self._attribute(attribute)
            for info in function.value_info:
                self._value_info(info)
            self._nodes(function.node)
        self._graph(model.graph, _function_names(model))
        if model.training_info:
            self._extras(model.graph).training.extend(model.training_info)
            model.ClearField("training_info")

    def _graph(self, graph: onnx.GraphProto, known: frozenset[str] = frozenset()) -> None:
        for info in (*graph.input, *graph.output, *graph.value_info):
            self._value_info(info)
        for sparse in graph.sparse_initializer:
            self._sparse_initializer(graph, sparse)
        graph.ClearField("sparse_initializer")
        self._nameless(graph, known)
        self._nodes(graph.node)

    def _value_info(self, info: onnx.ValueInfoProto) -> None:
        if info.HasField("type") and not holds(info.type):
            # The denotation of a type that onnx-ir drops goes with the type.
            info.metadata_props.add(key=self.marker, value=str(len(self.types)))
            self.types.append(_copy(info.type))
            info.ClearField("type")

    def _sparse_initializer(self, graph: onnx.GraphProto, sparse: onnx.SparseTensorProto) -> None:
        dense = graph.initializer.add(
            name=sparse.values.name,
            dims=sparse.dims,
            data_type=sparse.values.data_type,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        dense.external_data.add(key="location", value=self.marker + SPARSE_LOCATION)
        dense.external_data.add(key="offset", value=str(len(self.sparse)))
        kept = onnx.SparseTensorProto()
        kept.CopyFrom(sparse)
        self.sparse.append(kept)

    def _nameless(self, graph: onnx.GraphProto, known: frozenset[str]) -> None:
        inputs = {value.name for value in graph.input}
        produced = {name for node in graph.node for name in node.output}
        values = (produced | {tensor.name for tensor in graph.initializer}) - inputs
        # onnx-ir makes a value of a name that a node reads and nobody produces.
        read = {name for node in graph.node for name in node.input} - inputs
        outputs = {value.name for value in graph.output}
        for info in graph.value_info:
            if info.name in values and info.name not in produced:
                info.metadata_props.add(key=self.marker + VALUE_INFO_KEY, value="")
        orphans = [
            info
            for info in graph.value_info
            if info.name not in known and (info.name not in values | read or info.name in outputs)
        ]
        annotated = values | inputs | read
        strays = [
            annotation
            for annotation in graph.quantization_annotation
            if annotation.tensor_name not in annotated
        ]
        if orphans or strays:
            extras = self._extras(graph)
            extras.value_info.extend(_copy_info(info) for info in orphans)
            extras.annotations.extend(strays)

    def _extras(self, graph: onnx.GraphProto) -> Extras:
        for entry in graph.metadata_props:
            if entry.key == self.marker:
                return self.extras[int(entry.value)]
        graph.metadata_props.add(key=self.marker, value=str(len(self.extras)))
        self.extras.append(Extras())
        return self.extras[-1]

    def _nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                self._attribute(attribute)

    def _attribute(self, attribute: onnx.AttributeProto) -> None:
        if attribute.HasField("g"):
            self._graph(attribute.g)
        for graph in attribute.graphs:
            self._graph(graph)
        if attribute.type == Kind.UNDEFINED and not attribute.ref_attr_name:
            attribute.type = _implied_type(attribute)
        if not _is_carried(attribute):
            return
        kept = onnx.AttributeProto()
        kept.CopyFrom(attribute)
        name = attribute.name
        attribute.Clear()
        attribute.name = name
        attribute.type = Kind.STRING
        attribute.s = f"{self.marker}{len(self.attributes)}".encode()
        self.attributes.append(kept)


def holds(proto: onnx.TypeProto) -> bool:
    """Say whether onnx-ir can hold a type."""
    which = proto.WhichOneof("value")
    if which is None:
        return not proto.denotation
    inner = getattr(proto, which)
    if which in _TYPES:
        # Without an element type onnx-ir has no type, and nowhere to put the shape.
        return inner.HasField("elem_type") and inner.elem_type in _DATA_TYPES
    if which in _NESTED:
        return inner.HasField("elem_type") and holds(inner.elem_type) and _leaf(inner.elem_type)
    return False


def _leaf(proto: onnx.TypeProto) -> bool:
    return proto.WhichOneof("value") is not None


_DATA_TYPES = frozenset(dtype.value for dtype in ir.DataType)


def _copy(proto: onnx.TypeProto) -> onnx.TypeProto:
    copied = onnx.TypeProto()
    copied.CopyFrom(proto)
    return copied


def _copy_info(info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(info)
    return copied


def _function_names(model: onnx.ModelProto) -> frozenset[str]:
    """The `value_info` names by which onnx-ir knows values of functions before IR version 10."""
    if model.ir_version >= _FUNCTION_VALUE_INFO_VERSION:
        return frozenset()
    return frozenset(
        f"{function.domain}::{function.name}/{name}"
        for function in model.functions
        for names in (function.input, *(node.output for node in function.node))
        for name in names
    )


def _is_carried(attribute: onnx.AttributeProto) -> bool:
    if attribute.ref_attr_name:
        return False
    if attribute.type in {Kind.SPARSE_TENSOR, Kind.SPARSE_TENSORS}:
        return True
    if attribute.type == Kind.TYPE_PROTO:
        return not holds(attribute.tp)
    if attribute.type == Kind.TYPE_PROTOS:
        return not all(map(holds, attribute.type_protos))
    return attribute.type == Kind.STRINGS and not all(map(_is_text, attribute.strings))


_TYPE_OF_FIELD = {
    "f": Kind.FLOAT,
    "i": Kind.INT,
    "s": Kind.STRING,
    "t": Kind.TENSOR,
    "g": Kind.GRAPH,
    "sparse_tensor": Kind.SPARSE_TENSOR,
    "tp": Kind.TYPE_PROTO,
    "floats": Kind.FLOATS,
    "ints": Kind.INTS,
    "strings": Kind.STRINGS,
    "tensors": Kind.TENSORS,
    "graphs": Kind.GRAPHS,
    "sparse_tensors": Kind.SPARSE_TENSORS,
    "type_protos": Kind.TYPE_PROTOS,
}


def _implied_type(attribute: onnx.AttributeProto) -> onnx.AttributeProto.AttributeType:
    """The type of an attribute of the first IR versions, which say it by the field they fill."""
    types = [_TYPE_OF_FIELD.get(descriptor.name) for descriptor, _ in attribute.ListFields()]
    return next((type_ for type_ in types if type_ is not None), Kind.UNDEFINED)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def move_tags_to_meta(model: ir.Model, aside: Aside) -> None:
    """Exchange the tags that `set_aside` left in the metadata for what they stand for."""
    for scope in scopes(model):
        index = scope.graph.metadata_props.pop(aside.marker, None)
        if index is not None:
            scope.graph.meta[EXTRAS_KEY] = aside.extras[int(index)]
        for value in scope.graph.initializers.values():
            if value.metadata_props.pop(aside.marker + VALUE_INFO_KEY, None) is not None:
                value.meta[VALUE_INFO_KEY] = True
        for value in values_of(scope.graph) if aside.types else ():
            index = value.metadata_props.pop(aside.marker, None)
            if index is not None:
                value.meta[TYPE_KEY] = aside.types[int(index)]


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of a graph: inputs, initializers, node outputs, and outputs of no node."""
    seen: set[int] = set()
    yield from graph.inputs
    seen.update(map(id, graph.inputs))
    for value in graph.initializers.values():
        if id(value) not in seen:
            yield value
    for node in graph:
        yield from node.outputs
    for value in graph.outputs:
        if value.producer() is None and id(value) not in seen:
            yield value
