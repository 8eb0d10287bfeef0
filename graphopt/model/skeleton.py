"""A model as a proto without its weights: what ONNX's own C++ analyses are run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx.checker
import onnx.inliner
import onnx_ir as ir

from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.serialize import to_skeleton

LOCATION = "skeleton"
"""The file that big tensors refer to, and that nobody reads."""

_KEPT_BYTES = 4096
"""Tensors up to this size stay: shapes, axes and scalars decide other shapes."""

_MAX_PROPAGATED = 1 << 20
"""Elements of one tensor up to which ONNX may propagate data."""

_SHORTEST_LIST = {
    **dict.fromkeys(("ConstantOfShape", "CenterCropPad", "Expand", "Reshape", "Tile"), 2),
    **dict.fromkeys(("Pad", "Resize", "Upsample"), 3),
}
"""Operators whose data decide how large their result is: how many data mean that it is no list."""

_MAKERS_OF_LISTS = frozenset({"BlackmanWindow", "HammingWindow", "HannWindow", "OneHot", "Range"})

_UNKNOWN_DOMAIN = "graphopt.unknown"


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model with its big tensors replaced by references that nobody follows.

    Names, types, shapes and small tensors are all there; a model of any size costs a few MB.

    Args:
        model: Stays as it is.
    """
    whole = to_skeleton(model)

    def place(index: int, proto: onnx.TensorProto) -> None:
        if whole.tensors[index].nbytes <= _KEPT_BYTES:
            whole.inline(index, proto)
        else:
            proto.ClearField("external_data")
            proto.external_data.add(key="location", value=LOCATION)

    whole.fill(place)
    return whole.proto


def inferred_skeleton(model: ir.Model, dims: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """Serialize a model without its weights, functions inlined, shapes inferred for batch 1.

    Args:
        model: Stays as it is.
        dims: Sizes of dynamic dimensions of graph inputs: by symbol (`sequence`), or by input and
            axis (`ids[1]`). A dynamic first dimension that is not named here is the batch: 1.

    Raises:
        ValueError: ONNX could not inline the functions or infer shapes at all (an inconsistent
            model). A single node that it knows nothing about is no error.
    """
    proto = skeleton(model)
    fed = {value.name for value in model.graph.inputs if not value.is_initializer()}
    _bind(proto, fed, dict(dims or {}))
    _lay_sparse_open(proto)
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        inferred = onnx.shape_inference.infer_shapes(proto)
        if _hold_sizes(inferred):
            inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
            _show(inferred)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
    ) as error:
        raise ValueError(str(error)) from error
    return inferred


def _lay_sparse_open(proto: onnx.ModelProto) -> None:
    """Declare sparse initializers as what operators see of them: dense tensors.

    ONNX's inference takes them for values of a sparse type, which no operator has.
    """
    for graph in proto_graphs(proto.graph):
        for sparse in graph.sparse_initializer:
            dense = graph.initializer.add(
                name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims
            )
            dense.data_location = onnx.TensorProto.EXTERNAL
            dense.external_data.add(key="location", value=LOCATION)
        graph.ClearField("sparse_initializer")


def _hold_sizes(inferred: onnx.ModelProto) -> bool:
    """Hide what could make a list too long, and say whether data may be propagated then.

    ONNX lists every element of every tensor of rank 1 that an operator like Gather reads, known or
    not: a file of a hundred bytes can ask for more than any memory holds. Sizes that are known
    already are looked at; nodes that could find a size out while data are propagated are hidden
    behind a domain of their own, and keep what is known of them.
    """
    shapes = {}
    graphs = list(proto_graphs(inferred.graph))
    for name, shape in _shapes(graphs):
        shapes[name] = _sizes(shape)
        if len(shapes[name]) == 1 and (shapes[name][0] or 0) > _MAX_PROPAGATED:
            return False
    for graph in graphs:
        for node in graph.node:
            if node.domain in {"", "ai.onnx"} and _may_make_a_list(node, shapes):
                node.domain = _UNKNOWN_DOMAIN
    inferred.opset_import.add(domain=_UNKNOWN_DOMAIN, version=1)
    return True


def _may_make_a_list(node: onnx.NodeProto, shapes: Mapping[str, tuple[int | None, ...]]) -> bool:
    """Whether data may show that a node makes a tensor of rank 1, of a size not known yet."""
    made = [shapes.get(name) for name in node.output]
    if all(shape is not None and (len(shape) != 1 or shape[0] is not None) for shape in made):
        return False
    if node.op_type in _MAKERS_OF_LISTS:
        return True
    if node.op_type not in _SHORTEST_LIST:
        return False
    data = node.input if node.op_type == "ConstantOfShape" else node.input[1:]
    lengths = [shape[0] for name in data if (shape := shapes.get(name)) and len(shape) == 1]
    return all(length is None or length < _SHORTEST_LIST[node.op_type] for length in lengths)


def _show(inferred: onnx.ModelProto) -> None:
    """Undo what hid nodes."""
    for graph in proto_graphs(inferred.graph):
        for node in graph.node:
            if node.domain == _UNKNOWN_DOMAIN:
                node.domain = ""


def _sizes(shape: onnx.TensorShapeProto) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim)


def _shapes(graphs: list[onnx.GraphProto]) -> Iterator[tuple[str, onnx.TensorShapeProto]]:
    for graph in graphs:
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                yield value.name, value.type.tensor_type.shape


def _bind(proto: onnx.ModelProto, fed: set[str | None], dims: dict[str, int]) -> None:
    for value in proto.graph.input:
        if value.name in fed:
            _bind_input(value, dims)
    for graph in proto_graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in dims:
                    dim.dim_value = dims[dim.dim_param]


def _bind_input(value: onnx.ValueInfoProto, dims: dict[str, int]) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        asked = dims.get(f"{value.name}[{axis}]", 1 if axis == 0 else None)
        # Some exporters write a dynamic dimension as -1.
        is_dynamic = not dim.HasField("dim_value") or dim.dim_value < 0
        if asked is None or not is_dynamic:
            continue
        if dim.dim_param:
            dims.setdefault(dim.dim_param, asked)
        else:
            dim.dim_value = asked
