"""A loaded model as a ModelProto, with everything that onnx-ir does not write."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.carried import (
    EXTRAS_KEY,
    TYPE_KEY,
    VALUE_INFO_KEY,
    Carried,
    Extras,
    values_of,
)
from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.scopes import scopes
from graphopt.model.tensor_protos import visit_tensors
from graphopt.model.tensors import SparseTensor
from graphopt.model.training import check_training
from graphopt.model.untag import Tagged, untag

Kind = ir.AttributeType


@dataclass
class Skeleton:
    """A model without the data of its tensors.

    Args:
        proto: Its tensors are external; the location is the marker, the offset an index.
        marker: Occurs nowhere else in the model.
        tensors: The tensors, by index.
        initializers: Whether each is an initializer, and not in an attribute.
        sparse: The tensors that are stored sparse.
        sparse_parts: The indices of their values and indices.
    """

    proto: onnx.ModelProto
    marker: str
    tensors: list[ir.TensorProtocol]
    initializers: list[bool]
    sparse: list[SparseTensor]
    sparse_parts: set[int]

    def fill(self, place: Callable[[int, onnx.TensorProto], None]) -> None:
        """Call a function with the index and the proto of each tensor, to say where its data are.

        It may call `inline`, set the external data, or leave the proto as it is.
        """

        def visit(proto: onnx.TensorProto) -> None:
            data = proto.external_data
            if data and data[0].key == "location" and data[0].value == self.marker:
                place(int(data[1].value), proto)

        visit_tensors(self.proto, visit)

    def inline(self, index: int, proto: onnx.TensorProto) -> None:
        """Put the data of a tensor into its proto, in the form that they were loaded in."""
        tensor = self.tensors[index]
        if isinstance(tensor, ir.TensorProtoTensor):
            name = proto.name
            metadata = dict(tensor.metadata_props)
            proto.CopyFrom(tensor.raw)
            if name:
                proto.name = name
            if metadata != {entry.key: entry.value for entry in proto.metadata_props}:
                proto.ClearField("metadata_props")
                for key in sorted(metadata):
                    proto.metadata_props.add(key=key, value=metadata[key])
            return
        proto.ClearField("external_data")
        proto.ClearField("data_location")
        proto.raw_data = tensor.tobytes()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model whole, with its weights inside, as `save` would write it.

    Use this and not `onnx_ir.to_proto` for a model that `load` returned: onnx-ir cannot write
    its sparse attributes, and drops its map types, sparse initializers and training information.

    Args:
        model: Stays as it is.

    Raises:
        GraphoptError: A part cannot be written.
    """
    skeleton = to_skeleton(model)
    skeleton.fill(skeleton.inline)
    return skeleton.proto


def to_skeleton(
    model: ir.Model, sparse: Callable[[ir.TensorProtocol], ir.TensorProtocol] | None = None
) -> Skeleton:
    """Serialize a model without the data of its tensors.

    Args:
        model: Stays as it is; while this runs, placeholders stand in it.
        sparse: May return a `SparseTensor` to be stored in place of an initializer.

    Raises:
        GraphoptError: A part cannot be written.
    """
    _check_training(model)
    exchange = _Exchange(f"graphopt-{secrets.token_hex(16)}", sparse or (lambda tensor: tensor))
    try:
        exchange.enter(model)
        proto = ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise GraphoptError(f"it cannot be written: {innermost(error)}") from error
    finally:
        exchange.leave()
    untag(proto, exchange.tagged)
    _forget_outputs(proto, exchange.typed_outputs)
    return Skeleton(
        proto,
        exchange.marker,
        exchange.tensors,
        exchange.initializers,
        exchange.sparse_tensors,
        exchange.sparse_parts,
    )


def _forget_outputs(proto: onnx.ModelProto, names: set[str]) -> None:
    """Remove the types of initializers that are outputs, which onnx-ir repeats in value_info."""
    for graph in proto_graphs(proto.graph) if names else ():
        repeated = names & {info.name for info in graph.output}
        kept = [info for info in graph.value_info if info.name not in repeated]
        if len(kept) != len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)


def attribute_proto(attribute: ir.Attr) -> onnx.AttributeProto:
    """Serialize an attribute that is no body, with its tensors inside.

    Use this and not `onnx_ir.to_proto`, which cannot write sparse tensors and types of maps.
    """
    own = _own_proto(attribute, _whole_sparse_proto)
    return ir.serde.serialize_attribute(attribute) if own is None else own


def _own_proto(
    attribute: ir.Attr, sparse_proto: Callable[[SparseTensor], onnx.SparseTensorProto]
) -> onnx.AttributeProto | None:
    """Return an attribute that onnx-ir cannot write, as a proto; None where it can."""
    value = attribute.value
    if attribute.is_ref() or value is None:
        return None
    proto = onnx.AttributeProto(name=attribute.name)
    if attribute.doc_string:
        proto.doc_string = attribute.doc_string
    if attribute.type == Kind.TYPE_PROTOS and value:
        value = value[0]
    if isinstance(value, Carried):
        proto.CopyFrom(value.proto)
        proto.name = attribute.name
    elif attribute.type == Kind.SPARSE_TENSOR:
        proto.type = onnx.AttributeProto.SPARSE_TENSOR
        proto.sparse_tensor.CopyFrom(sparse_proto(value))
    elif attribute.type == Kind.SPARSE_TENSORS:
        proto.type = onnx.AttributeProto.SPARSE_TENSORS
        proto.sparse_tensors.extend(map(sparse_proto, value))
    elif attribute.type == Kind.STRINGS and any(isinstance(text, bytes) for text in value):
        proto.type = onnx.AttributeProto.STRINGS
        proto.strings.extend(_encoded(value))
    else:
        return None
    return proto


def _whole_sparse_proto(tensor: SparseTensor) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        dims=tensor.shape.numpy(),
        values=ir.serde.serialize_tensor(tensor.values),
        indices=ir.serde.serialize_tensor(tensor.indices),
    )


def innermost(error: BaseException) -> str:
    """Return the text of the exception that an error started from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _check_training(model: ir.Model) -> None:
    extras = model.graph.meta.get(EXTRAS_KEY)
    if isinstance(extras, Extras):
        check_training(model.graph, extras.trained)


@dataclass
class _Exchange:
    """What stands in a model for the time of its serialization, and how to undo it."""

    marker: str
    sparse: Callable[[ir.TensorProtocol], ir.TensorProtocol]
    tensors: list[ir.TensorProtocol] = field(default_factory=list)
    initializers: list[bool] = field(default_factory=list)
    sparse_tensors: list[SparseTensor] = field(default_factory=list)
    sparse_parts: set[int] = field(default_factory=set)
    typed_outputs: set[str] = field(default_factory=set)
    undo: list[Callable[[], None]] = field(default_factory=list)
    tagged: Tagged = field(init=False)

    def __post_init__(self) -> None:
        self.tagged = Tagged(self.marker)

    def enter(self, model: ir.Model) -> None:
        for scope in scopes(model):
            self._graph(scope.graph)
        for function in model.functions.values():
            self._attributes(function.attributes)

    def leave(self) -> None:
        for step in reversed(self.undo):
            step()

    def _graph(self, graph: ir.Graph) -> None:
        extras = graph.meta.get(EXTRAS_KEY)
        if extras:
            self._tag(graph.metadata_props, self.tagged.add_extras(extras))
        inputs = set(map(id, graph.inputs))
        for value in graph.initializers.values():
            self._initializer(value, named_input=id(value) in inputs)
        for value in values_of(graph):
            proto = value.meta.get(TYPE_KEY) if value.type is None else None
            if proto is not None:
                self._tag(value.metadata_props, self.tagged.add_type(proto))
        for node in graph:
            self._attributes(node.attributes)

    def _tag(self, metadata: MutableMapping[str, str], index: int) -> None:
        metadata[self.marker] = str(index)
        self.undo.append(lambda: metadata.__delitem__(self.marker))

    def _initializer(self, value: ir.Value, *, named_input: bool) -> None:
        tensor = value.const_value
        if tensor is None:
            raise GraphoptError(
                f"the initializer {value.name!r} has no value", fix="give it one, or remove it"
            )
        type_, shape = value.type, value.shape
        stored = tensor if named_input else self.sparse(tensor)
        value.const_value = self._stand_in(stored, initializer=True)
        if not named_input and _says_no_more(value, tensor):
            value.type = value.shape = None
        elif value.is_graph_output() and value.name and not value.meta.get(VALUE_INFO_KEY):
            self.typed_outputs.add(value.name)

        def undo() -> None:
            value.const_value = tensor
            value.type = type_
            value.shape = shape

        self.undo.append(undo)

    def _attributes(self, attributes: MutableMapping[str, ir.Attr]) -> None:
        for name, attribute in list(attributes.items()):
            exchanged = self._attribute(attribute)
            if exchanged is not None:
                attributes[name] = exchanged
                self.undo.append(_assignment(attributes, name, attribute))

    def _attribute(self, attribute: ir.Attr) -> ir.Attr | None:
        if attribute.is_ref() or attribute.value is None:
            return None
        value, name, doc = attribute.value, attribute.name, attribute.doc_string
        if attribute.type == Kind.TENSOR:
            return ir.AttrTensor(name, self._stand_in(value, initializer=False), doc)
        if attribute.type == Kind.TENSORS:
            tensors = [self._stand_in(tensor, initializer=False) for tensor in value]
            return ir.AttrTensors(name, tensors, doc)
        proto = _own_proto(attribute, self._sparse_proto)
        if proto is None:
            return None
        return ir.AttrString(name, f"{self.marker}{self.tagged.add_attribute(proto)}")

    def _stand_in(self, tensor: ir.TensorProtocol, *, initializer: bool) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        if isinstance(tensor, SparseTensor):
            index = self.tagged.add_sparse(self._sparse_proto(tensor))
            return _external(tensor, self.tagged.sparse_location, index)
        return _external(tensor, self.marker, self._index(tensor, initializer=initializer))

    def _index(self, tensor: ir.TensorProtocol, *, initializer: bool) -> int:
        self.tensors.append(tensor)
        self.initializers.append(initializer)
        return len(self.tensors) - 1

    def _sparse_proto(self, tensor: SparseTensor) -> onnx.SparseTensorProto:
        proto = onnx.SparseTensorProto(dims=tensor.shape.numpy())
        self.sparse_tensors.append(tensor)
        for part, target in ((tensor.values, proto.values), (tensor.indices, proto.indices)):
            index = self._index(part, initializer=False)
            self.sparse_parts.add(index)
            ir.serde.serialize_tensor_into(target, _external(part, self.marker, index))
        return proto


def _external(tensor: ir.TensorProtocol, location: str, index: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location,
        index,
        None,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _says_no_more(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Whether the type of an initializer repeats what its tensor says, and was not in the file."""
    return (
        not value.meta.get(VALUE_INFO_KEY)
        and not value.is_graph_output()
        and not value.metadata_props
        and not value.doc_string
        and (value.type is None or value.type == ir.TensorType(tensor.dtype))
        and (value.shape is None or value.shape == tensor.shape)
    )


def _assignment(
    attributes: MutableMapping[str, ir.Attr], name: str, attribute: ir.Attr
) -> Callable[[], None]:
    def assign() -> None:
        attributes[name] = attribute

    return assign


def _encoded(texts: Iterable[str | bytes]) -> list[bytes]:
    return [text if isinstance(text, bytes) else text.encode() for text in texts]
