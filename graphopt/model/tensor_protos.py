"""Whether the tensors of an untrusted model hold what their shapes and types say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.limits import Limits

_INT32 = frozenset(
    {"INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16"}
    | {"FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"}
    | {"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2"}
)
_FIELDS: dict[str, str] = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
    **dict.fromkeys(_INT32, "int32_data"),
}
_EXPORT_AGAIN = "export the model again"
_SHOWN = 80
_MAX_RANK = 32  # NumPy 1 can hold no more


def nbytes(proto: onnx.TensorProto, file: str, limits: Limits) -> int:
    """Return the bytes of a tensor in memory; 0 for strings.

    Raises:
        GraphoptError: Its type is unknown, a dimension is negative, or it is above
            `limits.max_bytes`.
    """
    dtype = data_type(proto, file)
    if len(proto.dims) > _MAX_RANK:
        raise _refused(proto, file, f"has {len(proto.dims)} dimensions, more than {_MAX_RANK}")
    elements = 1
    for dim in proto.dims:
        if dim < 0:
            raise _refused(proto, file, f"has the negative dimension {dim}")
        elements *= dim
    bits = 8 if dtype == ir.DataType.STRING else dtype.bitwidth
    size = -(-elements * bits // 8)
    if size > limits.max_bytes:
        raise GraphoptError(
            f"the tensor {quoted(proto.name)} of shape {list(proto.dims)} takes {size} bytes, more "
            f"than the limit of {limits.max_bytes}",
            file=file,
            fix="raise the limit with --max-bytes if you trust the file",
        )
    return 0 if dtype == ir.DataType.STRING else size


def quoted(text: str) -> str:
    """Quote a name that a file says, shortened where it would not fit a line."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def data_type(proto: onnx.TensorProto, file: str) -> ir.DataType:
    """Return the element type of a tensor, or raise GraphoptError where it has none."""
    try:
        dtype = ir.DataType(proto.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise _refused(proto, file, f"has the unknown data type {proto.data_type}")
    return dtype


def check_inline(proto: onnx.TensorProto, size: int, file: str) -> None:
    """Raise GraphoptError unless the data inside a tensor are what its shape and type take.

    Args:
        proto: A tensor that is not external.
        size: Its bytes, from `nbytes`.
        file: The model file.
    """
    if proto.HasField("segment"):
        raise _refused(proto, file, "is one segment of a tensor, which graphopt cannot carry")
    dtype = data_type(proto, file)
    expected = _FIELDS[dtype.name]
    filled = filled_fields(proto)
    if len(filled) > 1 or (filled and filled[0] not in {expected, "raw_data"}):
        raise _refused(proto, file, f"is {dtype.name} and has data in {' and '.join(filled)}")
    if filled == ["raw_data"]:
        if dtype == ir.DataType.STRING:
            raise _refused(proto, file, "has strings in raw_data")
        held, wanted, unit = len(proto.raw_data), size, "bytes"
    else:
        held = len(getattr(proto, expected))
        wanted, unit = _entries(proto, dtype), "entries"
    if held != wanted:
        raise _refused(
            proto, file, f"holds {held} {unit} of data, and its shape takes {wanted} {unit}"
        )


def filled_fields(proto: onnx.TensorProto) -> list[str]:
    """Return the names of the fields of a tensor that hold data."""
    filled = [name for name in sorted({*_FIELDS.values()}) if len(getattr(proto, name))]
    return [*filled, "raw_data"] if proto.HasField("raw_data") else filled


def _entries(proto: onnx.TensorProto, dtype: ir.DataType) -> int:
    """How many entries of a typed field a tensor takes."""
    elements = 1
    for dim in proto.dims:
        elements *= dim
    if dtype in {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}:
        return 2 * elements
    if dtype != ir.DataType.STRING and dtype.bitwidth in {2, 4}:
        return -(-elements * dtype.bitwidth // 8)
    return elements


def _refused(proto: onnx.TensorProto, file: str, cause: str) -> GraphoptError:
    return GraphoptError(f"the tensor {quoted(proto.name)} {cause}", file=file, fix=_EXPORT_AGAIN)


Visit = Callable[[onnx.TensorProto], None]


def visit_tensors(model: onnx.ModelProto, visit: Visit) -> None:
    """Call a function with every tensor of a model, in attributes and bodies too.

    Also those of the training information.
    """
    for graph in (model.graph, *_training_graphs(model)):
        _visit_graph(graph, visit)
    for function in model.functions:
        for attribute in function.attribute_proto:
            _visit_attribute(attribute, visit)
        for node in function.node:
            for attribute in node.attribute:
                _visit_attribute(attribute, visit)


def _training_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    for info in model.training_info:
        yield info.initialization
        yield info.algorithm


def _visit_graph(graph: onnx.GraphProto, visit: Visit) -> None:
    for tensor in graph.initializer:
        visit(tensor)
    for sparse in graph.sparse_initializer:
        visit(sparse.values)
        visit(sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            _visit_attribute(attribute, visit)


def _visit_attribute(attribute: onnx.AttributeProto, visit: Visit) -> None:
    if attribute.HasField("t"):
        visit(attribute.t)
    for tensor in attribute.tensors:
        visit(tensor)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        if sparse.HasField("values"):
            visit(sparse.values)
            visit(sparse.indices)
    if attribute.HasField("g"):
        _visit_graph(attribute.g, visit)
    for graph in attribute.graphs:
        _visit_graph(graph, visit)
