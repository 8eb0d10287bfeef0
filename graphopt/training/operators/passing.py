"""Operators that pass their input on, or what they hold."""

from __future__ import annotations

import numpy as np
import torch

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.numbers import MAX_NUMBERS, Numbers, Value
from graphopt.training.operators.registry import operator


@operator("Identity")
def identity(_: Call, value: Value) -> Value:
    """Return the input: a tensor, a sequence or an optional one."""
    return value


@operator("Constant")
def constant(call: Call) -> Value:
    """Return the attribute, of a node that stays as what it gives is an output of its graph."""
    (attribute,) = call.node.attributes.values()
    if attribute.name.startswith("value_string") or attribute.name == "sparse_value":
        raise call.refused(f"PyTorch has no tensors of {attribute.name}")
    if attribute.name != "value":
        dtype = torch.float32 if "float" in attribute.name else torch.int64
        return Numbers(np.array(attribute.value, dtype=object), dtype)
    array = attribute.value.numpy()
    if array.size <= MAX_NUMBERS and array.dtype.kind in "fib":
        return Numbers(np.asarray(array.astype(object)), torch_dtype(attribute.value.dtype))
    return call.tensor("value")
