"""ONNX's own shape inference, run on a model without its weights and without its claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.model.bounded_inference import infer_in_bounds
from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.serialize import attribute_proto
from graphopt.model.skeleton import skeleton
from graphopt.rewrite.constants import ONNX_DOMAINS, constant, is_op, nbytes
from graphopt.rewrite.dims import Dim, Dims, declared_dims

_KEPT_BYTES = 1024
"""Constants up to this size go along: shapes, axes, pads and scales decide other shapes."""

_LIKE_THEIR_INPUT = frozenset(
    {
        ("", "GroupNormalization"),
        ("", "SimplifiedLayerNormalization"),
        *(("com.microsoft", op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")),
    }
)
"""Operators without inference of their own: output 0 has the type and the shape of input 0."""

_MAX_NAMED_AXIS = 64
"""Shapes of more dimensions than this are not carried."""


@dataclass
class Inferred:
    """Shapes and element types by value, and why inference stopped where it did."""

    shapes: dict[ir.Value, Dims] = field(default_factory=dict)
    dtypes: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    failure: str | None = None


def infer(model: ir.Model) -> Inferred:
    """Infer the shapes and types of the main graph and its bodies; the model stays as it is.

    Functions are followed at their calls, but what is inside them is not reported: a function has
    no types of its own.
    """
    return _Renamed(model).infer()


def _record(info: onnx.ValueInfoProto, value: ir.Value, inferred: Inferred) -> None:
    if info.type.WhichOneof("value") != "tensor_type":
        return
    tensor = info.type.tensor_type
    if tensor.elem_type:
        inferred.dtypes[value] = ir.DataType(tensor.elem_type)
    if tensor.HasField("shape"):
        dims = tuple(_dim(dim) for dim in tensor.shape.dim)
        if len(dims) <= _MAX_NAMED_AXIS:
            inferred.shapes[value] = dims


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.WhichOneof("value") == "dim_value":
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None


class _Renamed:
    """A proto of a model with names of its own, so that no scoping accident can mix values up."""

    def __init__(self, model: ir.Model) -> None:
        self.values: dict[str, ir.Value] = {}
        self._names: dict[ir.Value, str] = {}
        self.proto = onnx.ModelProto(ir_version=max(model.ir_version or 0, 8))
        for domain, version in model.opset_imports.items():
            self.proto.opset_import.add(domain=domain, version=version)
        self.proto.graph.name = "renamed"
        self._fill(self.proto.graph, model.graph, trust_inputs=True)
        for function in skeleton(model).functions if model.functions else ():
            # What a function claims of its inner shapes is not trusted, either.
            function.ClearField("value_info")
            self.proto.functions.append(function)

    def infer(self) -> Inferred:
        """Run ONNX's inference; on failure, what was declared is what is known."""
        inferred, proto = Inferred(), self.proto
        try:
            proto = infer_in_bounds(proto)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            inferred.failure = " ".join(str(error).split())[:200]
        for graph in proto_graphs(proto.graph):
            for info in (*graph.input, *graph.value_info, *graph.output):
                _record(info, self.values[info.name], inferred)
        return inferred

    def _name(self, value: ir.Value | None) -> str:
        if value is None:
            return ""
        name = self._names.get(value)
        if name is None:
            name = self._names[value] = f"v{len(self._names)}"
            self.values[name] = value
        return name

    def _fill(self, proto: onnx.GraphProto, graph: ir.Graph, *, trust_inputs: bool) -> None:
        for value in graph.inputs:
            dims = declared_dims(value.shape) if trust_inputs else None
            self._declare(proto.input.add(), value, dims)
        for value in graph.initializers.values():
            if not value.is_graph_input() and value.const_value is not None:
                self._constant(proto, value, value.const_value)
        for node in graph:
            self._add_node(proto, node)
        for value in graph.outputs:
            self._declare(proto.output.add(), value, None)

    def _declare(self, info: onnx.ValueInfoProto, value: ir.Value, dims: Dims | None) -> None:
        info.name = self._name(value)
        if value.type is None:
            return
        if not isinstance(value.type, ir.TensorType):
            ir.serde.serialize_type_into(info.type, value.type)
            return
        info.type.tensor_type.elem_type = int(value.type.dtype)
        if dims is not None:
            _write_dims(info.type.tensor_type.shape, dims)

    def _constant(self, proto: onnx.GraphProto, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Carry a small tensor; of a big one, only what an input would tell."""
        if _is_small(tensor):
            carried = ir.serde.serialize_tensor(tensor)
            carried.name = self._name(value)
            proto.initializer.append(carried)
            return
        # Names are unique in the whole proto, so the main graph can declare it for any body.
        info = self.proto.graph.input.add(name=self._name(value))
        info.type.tensor_type.elem_type = int(tensor.dtype)
        _write_dims(info.type.tensor_type.shape, [int(size) for size in tensor.shape.numpy()])

    def _add_node(self, proto: onnx.GraphProto, node: ir.Node) -> None:
        if is_op(node, "Constant") and node.outputs:
            tensor = constant(node.outputs[0])
            if tensor is not None:
                self._constant(proto, node.outputs[0], tensor)
                return
        inputs = [self._name(value) for value in node.inputs]
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if (domain, node.op_type) in _LIKE_THEIR_INPUT and not node.overload:
            proto.node.add(
                op_type="Identity", input=inputs[:1], output=[self._name(node.outputs[0])]
            )
            return
        added = proto.node.add(op_type=node.op_type, domain=node.domain, input=inputs)
        if node.overload:
            added.overload = node.overload
        added.output.extend(self._name(value) if value.name else "" for value in node.outputs)
        for attribute in node.attributes.values():
            self._add_attribute(added.attribute.add(), attribute)
        if node.domain not in ONNX_DOMAINS:
            self._keep_types(proto, node.outputs)

    def _keep_types(self, proto: onnx.GraphProto, values: Iterable[ir.Value]) -> None:
        """Where ONNX has no schema, the declared element type is all there is to go by."""
        for value in values:
            if value.name and isinstance(value.type, ir.TensorType):
                self._declare(proto.value_info.add(), value, None)

    def _add_attribute(self, proto: onnx.AttributeProto, attribute: ir.Attr) -> None:
        if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
            proto.name, proto.type = attribute.name, onnx.AttributeProto.GRAPH
            self._fill_body(proto.g, attribute.as_graph())
        elif not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPHS:
            proto.name, proto.type = attribute.name, onnx.AttributeProto.GRAPHS
            for body in attribute.as_graphs():
                self._fill_body(proto.graphs.add(), body)
        else:
            proto.CopyFrom(attribute_proto(attribute))

    def _fill_body(self, proto: onnx.GraphProto, body: ir.Graph) -> None:
        proto.name = body.name or "body"
        # What a body declares of its inputs is not part of the model's interface.
        self._fill(proto, body, trust_inputs=False)


def _is_small(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype == ir.DataType.STRING:
        return tensor.size <= 1
    return nbytes(tensor) <= _KEPT_BYTES


def _write_dims(shape: onnx.TensorShapeProto, dims: Iterable[Dim]) -> None:
    shape.SetInParent()
    for dim in dims:
        added = shape.dim.add()
        if isinstance(dim, int):
            added.dim_value = dim
        elif dim is not None:
            added.dim_param = dim
