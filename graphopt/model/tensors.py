"""Tensors that stay in the file they came from."""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.mapped import MappedFile

Array = npt.NDArray[np.generic]


class StoredTensor(ABC):
    """What tensors of this module share of `ir.TensorProtocol`; they are immutable.

    Args:
        dtype: The element type.
        shape: The shape; with `dtype` it gives the length.
        name: The name.
        doc_string: The documentation.
        metadata_props: The metadata.
    """

    raw: Any
    """Where the data are."""

    def __init__(
        self,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        shape.freeze()
        self.dtype = dtype
        self.shape: ir.ShapeProtocol = shape
        self.name = name
        self.doc_string = doc_string
        self.metadata_props: MutableMapping[str, str] = metadata_props or {}
        self.meta: MutableMapping[str, Any] = {}
        self._size = math.prod(shape.numpy())
        self._nbytes = -(-self._size * dtype.bitwidth // 8)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._size

    @property
    def nbytes(self) -> int:
        """The number of bytes of the dense tensor."""
        return self._nbytes

    @abstractmethod
    def numpy(self) -> Array:
        """Return the elements."""

    def tobytes(self) -> bytes:
        """Return the dense elements in ONNX's little-endian form."""
        return ir.Tensor(self.numpy(), self.dtype).tobytes()

    def tofile(self, file: BinaryIO) -> None:
        """Write what `tobytes` returns."""
        ir.Tensor(self.numpy(), self.dtype).tofile(file)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.__array__().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> Any:
        return self.__array__().__dlpack_device__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.dtype},{self.shape}>({self.raw}, name={self.name!r})"


class MappedTensor(StoredTensor):
    """A tensor in a file: a view of a shared mapping, or bytes for the kernel to copy.

    Args:
        file: Where it is.
        offset: Of its first byte.
        dtype: As in `StoredTensor`.
        shape: As in `StoredTensor`.
        name: As in `StoredTensor`.
        doc_string: As in `StoredTensor`.
        metadata_props: As in `StoredTensor`.
        checksum: The SHA1 of the data file, if the model says one; it is carried, not checked.
        location: What the model calls the file; None for data inside the model file.
    """

    def __init__(
        self,
        file: MappedFile,
        offset: int,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
        checksum: str | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(
            dtype, shape, name=name, doc_string=doc_string, metadata_props=metadata_props
        )
        self.raw = file
        self.file = file
        self.offset = offset
        self.checksum = checksum
        self.location = location

    def view(self) -> npt.NDArray[np.uint8]:
        """Return the bytes in the file as a read-only array on the mapping."""
        return self.file.view(self.offset, self.nbytes)

    def numpy(self) -> Array:
        """Return a read-only view of the file; element types smaller than a byte are unpacked."""
        return decode(self.view(), self.dtype, tuple(self.shape.numpy()))

    def tobytes(self) -> bytes:
        """Return a copy of the bytes in the file."""
        return self.view().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes at the position of a binary file; the kernel copies where it can."""
        try:
            target = file.fileno()
        except (AttributeError, OSError):
            file.write(self.view().data)
            return
        file.flush()
        self.file.copy(self.offset, self.nbytes, target)
        if file.seekable():
            file.seek(0, os.SEEK_CUR)

    def __repr__(self) -> str:
        where = f"{self.file.path!r}, offset={self.offset}"
        return f"MappedTensor<{self.dtype},{self.shape}>({where}, name={self.name!r})"


def decode(raw: npt.NDArray[np.uint8], dtype: ir.DataType, shape: tuple[int, ...]) -> Array:
    """Read little-endian ONNX bytes as an array, without a copy where elements fill bytes."""
    if dtype.bitwidth < 8:
        return cast("Array", ir.PackedTensor(raw, dtype, shape=ir.Shape(shape)).numpy())
    element = np.dtype(dtype.numpy())
    if sys.byteorder == "big":
        element = element.newbyteorder("<")
    return raw.view(element).reshape(shape)


class SparseTensor(StoredTensor):
    """A tensor stored as its non-zero values and their indices; dense when it is read.

    Args:
        values: One dimension, the non-zero values; its name is the tensor's.
        indices: int64: one dimension of indices into the flattened tensor, or (values, rank).
        dims: The dense shape.
    """

    def __init__(
        self, values: ir.TensorProtocol, indices: ir.TensorProtocol, dims: tuple[int, ...]
    ) -> None:
        super().__init__(
            values.dtype, ir.Shape(dims), name=values.name, doc_string=values.doc_string
        )
        self.raw = values, indices
        self.values = values
        self.indices = indices

    @property
    def stored_bytes(self) -> int:
        """Bytes of the values and the indices."""
        return self.values.nbytes + self.indices.nbytes

    def numpy(self) -> Array:
        """Return a new dense array."""
        values = self.values.numpy()
        dense = np.zeros(self.size, values.dtype)
        dense[self.linear_indices()] = values
        return dense.reshape(tuple(self.shape.numpy()))

    def linear_indices(self) -> npt.NDArray[np.int64]:
        """Return the indices into the flattened tensor."""
        indices = cast("npt.NDArray[np.int64]", self.indices.numpy())
        if indices.ndim == 1:
            return indices
        strides = np.cumprod((1, *reversed(self.shape.numpy()[1:])), dtype=np.int64)[::-1]
        return indices @ strides

    def check(self, file: str) -> None:
        """Raise GraphoptError unless the indices fit the shape and ascend.

        Source: SparseTensorProto in onnx.proto.
        """
        count = self.values.size
        shape = tuple(self.indices.shape.numpy())
        cause = None
        if self.indices.dtype != ir.DataType.INT64 or (
            shape not in {(count,), (count, len(self.shape))}
        ):
            cause = f"has {self.indices.dtype.name} indices of shape {shape} for {count} values"
        elif tuple(self.values.shape.numpy()) != (count,):
            cause = "has values of more than one dimension"
        elif count and not self._indices_fit():
            cause = f"has indices that leave its shape {list(self.shape.numpy())} or do not ascend"
        if cause is not None:
            raise GraphoptError(
                f"the sparse tensor {self.name!r} {cause}", file=file, fix="export the model again"
            )

    def _indices_fit(self) -> bool:
        indices = cast("npt.NDArray[np.int64]", self.indices.numpy())
        bounds = np.array([self.size] if indices.ndim == 1 else self.shape.numpy(), np.int64)
        columns = indices.reshape(len(indices), -1)
        if bool((columns < 0).any()) or bool((columns >= bounds).any()):
            return False
        linear = self.linear_indices()
        return bool((linear[1:] > linear[:-1]).all())
