"""Exchange the placeholders in a model that was just read for tensors on its files."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.carried import Aside, Carried
from graphopt.model.limits import Limits
from graphopt.model.mapped import MappedFile
from graphopt.model.scopes import scopes
from graphopt.model.tensor_protos import nbytes
from graphopt.model.tensors import MappedTensor, SparseTensor

Kind = ir.AttributeType


@dataclass(frozen=True)
class Place:
    """Where the data of a tensor are.

    Args:
        file: The file.
        offset: Of the first byte.
        checksum: The SHA1 of the file, if the model says one.
        location: What the model calls the file; None for the model file itself.
    """

    file: MappedFile
    offset: int
    checksum: str | None
    location: str | None


@dataclass
class Mount:
    """Puts tensors on files into a model.

    Args:
        name: The model file, for messages.
        limits: Bounds the dense size of sparse tensors.
        marker: The location of the placeholders.
        places: Where the data are, by the offset of the placeholders.
        aside: The sparse tensors and attributes.
    """

    name: str
    limits: Limits
    marker: str
    places: list[Place]
    aside: Aside

    def mount(self, model: ir.Model) -> None:
        """Exchange every placeholder of a model."""
        for scope in scopes(model):
            for value in scope.graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value = self._tensor(value.const_value)
            for node in scope.graph:
                self._attributes(node.attributes)
        for function in model.functions.values():
            self._attributes(function.attributes)

    def _tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        index = tensor.offset or 0
        if tensor.location != self.marker:
            return self._sparse(self.aside.sparse[index])
        place = self.places[index]
        return MappedTensor(
            place.file,
            place.offset,
            tensor.dtype,
            tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            checksum=place.checksum,
            location=place.location,
        )

    def _sparse(self, proto: onnx.SparseTensorProto) -> SparseTensor:
        name = proto.values.name
        if proto.values.data_type == onnx.TensorProto.STRING:
            raise GraphoptError(
                f"the sparse tensor {name!r} has strings, which graphopt cannot carry",
                file=self.name,
                fix="store it as a dense tensor",
            )
        # What it takes when it is read, not what it takes in the file.
        dense = onnx.TensorProto(name=name, dims=proto.dims, data_type=proto.values.data_type)
        nbytes(dense, self.name, self.limits)
        values = ir.serde.deserialize_tensor(proto.values)
        indices = ir.serde.deserialize_tensor(proto.indices)
        tensor = SparseTensor(self._tensor(values), self._tensor(indices), tuple(proto.dims))
        tensor.check(self.name)
        return tensor

    def _attributes(self, attributes: MutableMapping[str, ir.Attr]) -> None:
        for name, attribute in list(attributes.items()):
            mounted = self._attribute(attribute)
            if mounted is not None:
                attributes[name] = mounted

    def _attribute(self, attribute: ir.Attr) -> ir.Attr | None:
        value, name, doc = attribute.value, attribute.name, attribute.doc_string
        if attribute.type == Kind.TENSOR and isinstance(value, ir.ExternalTensor):
            return ir.AttrTensor(name, self._tensor(value), doc)
        if attribute.type == Kind.TENSORS and value is not None:
            return ir.AttrTensors(name, [self._tensor(tensor) for tensor in value], doc)
        if isinstance(value, str) and value.startswith(self.marker):
            return self._carried(self.aside.attributes[int(value[len(self.marker) :])])
        return None

    def _carried(self, proto: onnx.AttributeProto) -> ir.Attr:
        doc = proto.doc_string if proto.HasField("doc_string") else None
        kind = Kind(proto.type)
        # An attribute of several types must have a sequence for its value.
        value: object = (Carried(proto),) if kind == Kind.TYPE_PROTOS else Carried(proto)
        if kind == Kind.SPARSE_TENSOR:
            value = self._sparse(proto.sparse_tensor)
        elif kind == Kind.SPARSE_TENSORS:
            value = tuple(self._sparse(sparse) for sparse in proto.sparse_tensors)
        elif kind == Kind.STRINGS:
            value = tuple(proto.strings)
        return ir.Attr(proto.name, kind, value, doc_string=doc)
