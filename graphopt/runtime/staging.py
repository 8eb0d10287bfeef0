"""Hand a model in memory to ONNX Runtime without a second copy of its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model.serialize import to_skeleton
from graphopt.model.tensors import SparseTensor

Array = npt.NDArray[Any]

_BIG = 1 << 16
"""Bytes from which an initializer is passed by reference: below are the shapes and axes that ONNX
Runtime wants to read in the graph itself."""

_SPILLED = 1 << 20
"""Bytes from which a computed weight is written to a temporary file, and not held in memory."""

_PLACEHOLDER = "by-reference"
_PROTOBUF_LIMIT = (1 << 31) - 1


@dataclass
class Staged:
    """A model as ONNX Runtime takes it.

    Args:
        content: The serialized model, its big initializers referring to data elsewhere.
        arrays: Those initializers by name. They must live as long as the session.
        dtypes: Their ONNX element types.
        spill: The temporary file behind some of them; it has no name, and goes with the process.
    """

    content: bytes
    arrays: dict[str, Array] = field(default_factory=dict)
    dtypes: dict[str, ir.DataType] = field(default_factory=dict)
    spill: IO[bytes] | None = None


def stage(model: ir.Model, expose: Sequence[str] = ()) -> Staged:
    """Serialize a model, but pass its big initializers by reference.

    Weights in a file stay mapped; weights that are computed when read (lazy, sparse) go one by one
    to a temporary file without a name.

    Args:
        model: Stays as it is.
        expose: Inner values of the main graph that become outputs.

    Raises:
        GraphoptError: A name to expose is unknown, or the temporary file cannot be written.
        CheckFailed: More than 2 GB of the model are not initializers of its main graph.
    """
    copy = model.clone()
    _expose(copy, expose)
    staged = Staged(b"")
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _BIG or not _fills_bytes(tensor.dtype):
            continue
        staged.arrays[name] = _array(tensor, staged)
        staged.dtypes[name] = tensor.dtype
        value.const_value = _placeholder(tensor, name)
    proto = _serialized(copy)
    size = proto.ByteSize()
    if size > _PROTOBUF_LIMIT:
        raise CheckFailed(
            f"{size:,} bytes of the model are not initializers of the main graph, over the 2 GB"
            " that ONNX Runtime reads as one message"
        )
    staged.content = proto.SerializeToString()
    return staged


def add_initializers(options: Any, staged: Staged) -> None:
    """Give the arrays of a staged model to session options."""
    import onnxruntime

    if not staged.arrays:
        return
    make = onnxruntime.OrtValue
    values = []
    for name, array in staged.arrays.items():
        dtype = staged.dtypes[name]
        if array.dtype.kind in "fiub" and array.dtype == np.dtype(dtype.numpy()):
            values.append(make.ortvalue_from_numpy(array))
        else:
            values.append(make.ortvalue_from_numpy_with_onnx_type(array, int(dtype)))
    options.add_external_initializers(list(staged.arrays), values)


def _expose(model: ir.Model, names: Sequence[str]) -> None:
    if not names:
        return
    values = {value.name: value for node in model.graph for value in node.outputs if value.name}
    have = {value.name for value in model.graph.outputs}
    for name in dict.fromkeys(names):
        if name not in values:
            raise GraphoptError(f"no node of the main graph computes {name!r}")
        if name not in have:
            model.graph.outputs.append(values[name])


def _fills_bytes(dtype: ir.DataType) -> bool:
    return dtype != ir.DataType.STRING and dtype.bitwidth >= 8


def _placeholder(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        _PLACEHOLDER,
        0,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
    )


def _array(tensor: ir.TensorProtocol, staged: Staged) -> Array:
    array = tensor.numpy()
    if array.dtype.kind not in "fiub" or array.dtype.hasobject:
        # Types that numpy does not know travel as unsigned integers of their width.
        array = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    computed = isinstance(tensor, ir.LazyTensor | SparseTensor)
    if (computed and array.nbytes >= _SPILLED) or not array.flags.aligned:
        return _spilled(array, staged)
    return np.ascontiguousarray(array)


def _spilled(array: Array, staged: Staged) -> Array:
    try:
        if staged.spill is None:
            staged.spill = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        offset = -(-staged.spill.seek(0, 2) // 64) * 64
        staged.spill.seek(offset)
        staged.spill.write(np.ascontiguousarray(array).data.cast("B"))
        staged.spill.flush()
        return np.memmap(staged.spill, array.dtype, "r", offset, array.shape)
    except OSError as error:
        raise GraphoptError(
            f"weights cannot be written to a temporary file: {error.strerror}",
            file=tempfile.gettempdir(),
            fix="set TMPDIR to a folder with room",
        ) from None


def _serialized(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model with all of its tensors inside, but for the placeholders."""
    skeleton = to_skeleton(model)

    def place(index: int, proto: onnx.TensorProto) -> None:
        tensor = skeleton.tensors[index]
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == _PLACEHOLDER:
            proto.CopyFrom(ir.to_proto(tensor))
        else:
            skeleton.inline(index, proto)

    skeleton.fill(place)
    return skeleton.proto
