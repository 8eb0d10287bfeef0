"""Element types of ONNX as element types of PyTorch."""

from __future__ import annotations

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from graphopt.errors import GraphoptError

_UNPACKED = {
    ir.DataType.INT4: torch.int8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.FLOAT4E2M1: torch.float32,
}
"""Types that PyTorch computes nothing with, by one that holds all their values."""


def torch_dtype(dtype: ir.DataType) -> torch.dtype:
    """Return the type whose elements stand for those of an ONNX type.

    Raises:
        GraphoptError: PyTorch has none.
    """
    unpacked = _UNPACKED.get(dtype)
    if unpacked is not None:
        return unpacked
    try:
        return tensor_adapters.to_torch_dtype(dtype)
    except TypeError as error:
        raise GraphoptError(f"PyTorch has no element type {dtype.name}") from error


def torch_tensor(tensor: ir.TensorProtocol) -> torch.Tensor:
    """Copy a tensor of a model.

    Raises:
        GraphoptError: PyTorch has no such element type.
    """
    dtype = torch_dtype(tensor.dtype)
    array = tensor.numpy()
    if tensor.dtype in _UNPACKED:
        wide = "float32" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
        return torch.from_numpy(array.astype(wide))
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array.copy())
    bits = array.view(f"u{array.dtype.itemsize}").copy()
    return torch.from_numpy(bits).view(dtype)
