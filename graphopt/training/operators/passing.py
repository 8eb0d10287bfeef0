"""Operators that pass their input on, or what they hold."""

from __future__ import annotations

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Value
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
    if attribute.name == "value":
        return call.tensor("value")
    dtype = torch.float32 if "float" in attribute.name else torch.int64
    return torch.tensor(attribute.value, dtype=dtype, device=call.device)
