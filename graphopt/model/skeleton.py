"""A model as a proto without its weights: what ONNX's own C++ analyses are run on."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.checker
import onnx.inliner
import onnx_ir as ir

from graphopt.model.bounded_inference import infer_in_bounds
from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.serialize import to_skeleton

LOCATION = "skeleton"
"""The file that big tensors refer to, and that nobody reads."""

_KEPT_BYTES = 4096
"""Tensors up to this size stay: shapes, axes and scalars decide other shapes."""


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
        return infer_in_bounds(proto)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
    ) as error:
        raise ValueError(str(error)) from error


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
