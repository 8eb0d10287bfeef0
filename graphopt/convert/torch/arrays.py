"""Arrays of numpy and tensors of PyTorch, of every type that both have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir import tensor_adapters

from graphopt.runtime.feeds import Array

if TYPE_CHECKING:
    import torch


def to_numpy(tensor: torch.Tensor) -> Array:
    """Copy a tensor; types that numpy lacks come from ml_dtypes."""
    return np.array(tensor_adapters.TorchTensor(tensor.detach().cpu().contiguous()).numpy())


def to_torch(array: Array) -> torch.Tensor:
    """Copy an array."""
    import torch

    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array.copy())
    dtype = tensor_adapters.to_torch_dtype(ir.DataType.from_numpy(array.dtype))
    return torch.from_numpy(array.view(f"u{array.dtype.itemsize}").copy()).view(dtype)
