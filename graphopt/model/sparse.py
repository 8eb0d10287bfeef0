"""Weights as sparse tensors, where that takes fewer bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.model.tensors import SparseTensor

_BITS = {8: "u1", 16: "u2", 32: "u4", 64: "u8"}
_INDEX_BYTES = 8


def as_sparse(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor as non-zero values and their int64 indices, where that is smaller.

    The form is the one-dimensional one of SparseTensorProto, indices into the flattened tensor.
    Only +0.0 is left out: -0.0 and NaN are values. The parts are lazy, so that many weights can be
    stored in the memory of one.

    Args:
        tensor: Any tensor; strings, complex numbers and elements below a byte stay as they are.
    """
    if isinstance(tensor, SparseTensor) or tensor.dtype == ir.DataType.STRING:
        return tensor
    bits = _BITS.get(tensor.dtype.bitwidth)
    if bits is None or not tensor.size:
        return tensor
    count = int(np.count_nonzero(_bits(tensor, bits)))
    if count * (tensor.dtype.bitwidth // 8 + _INDEX_BYTES) >= tensor.nbytes:
        return tensor

    def values() -> ir.TensorProtocol:
        flat = tensor.numpy().reshape(-1)
        return ir.Tensor(flat[np.flatnonzero(_bits(tensor, bits))], tensor.dtype)

    def indices() -> ir.TensorProtocol:
        return ir.Tensor(np.flatnonzero(_bits(tensor, bits)).astype(np.int64))

    return SparseTensor(
        ir.LazyTensor(values, tensor.dtype, ir.Shape([count]), name=tensor.name),
        ir.LazyTensor(indices, ir.DataType.INT64, ir.Shape([count])),
        tuple(int(dim) for dim in tensor.shape.numpy()),
    )


def _bits(tensor: ir.TensorProtocol, bits: str) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(bits)
