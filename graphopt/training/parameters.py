"""Weights as parameters and buffers of a module, under the names that they have in the model."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from graphopt.rewrite.constants import is_op
from graphopt.rewrite.layers import Role
from graphopt.rewrite.weights import Weight, weights
from graphopt.training.dtypes import torch_tensor

_PASSED_ON = ("Cast", "CastLike", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose output is as trainable as their first input."""

_LARGEST = 1e4
"""Masks hold the lowest number or minus infinity, weights nothing as large."""

_UNTRAINED = {
    # The positions of inputs that are no weights, by operator.
    "BatchNormalization": {3, 4},
    "Clip": {1, 2},
    "DequantizeLinear": {1, 2},
    "DynamicQuantizeLSTM": {8, 10},
    "DynamicQuantizeMatMul": {2},
    "Equal": {0, 1},
    "Greater": {0, 1},
    "GreaterOrEqual": {0, 1},
    "GroupQueryAttention": {7, 8},
    "LSTM": {4},
    "Less": {0, 1},
    "LessOrEqual": {0, 1},
    "MatMulIntegerToFloat": {2, 3},
    "MatMulNBits": {2, 3},
    "MelWeightMatrix": {0, 1, 2, 3, 4},
    "NonMaxSuppression": {0, 1, 2, 3, 4},
    "OneHot": {2},
    "Pad": {2},
    "Pow": {1},
    "QAttention": {3, 4},
    "QuantizeLinear": {1, 2},
    "Range": {0, 1, 2},
    "Resize": {1, 2, 3},
    "RotaryEmbedding": {1, 2, 3},
    "STFT": {2},
    "Where": {0, 1, 2},
}


def trainable(model: ir.Model) -> set[str]:
    """Return the names of the initializers that are weights which training would change.

    Those are floating-point numbers none of whose readers takes them for a running statistic, a
    bound, a scale of quantization, a mask or a table of positions (factors of several axes, terms
    beyond 1e4). A single number may be any
    constant: it is a weight where a layer reads it as such, as its bias or its slope, say.

    Args:
        model: A prepared one, whose constants are initializers of its main graph.
    """
    read_by_layers = {
        found.value for found in weights(model, roles=tuple(Role)) if isinstance(found, Weight)
    }
    return {
        name
        for name, value in model.graph.initializers.items()
        if _is_real(value)
        and _trained_through(value)
        and not _is_table(value)
        and (value in read_by_layers or _size(value) > 1 or _is_slope(value))
    }


def _is_real(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 16


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _is_slope(value: ir.Value) -> bool:
    return any(is_op(node, "PRelu") and index == 1 for node, index in value.uses())


def _trained_through(value: ir.Value) -> bool:
    for node, index in value.uses():
        if index in _UNTRAINED.get(node.op_type, ()) or _is_of_groups(node, index):
            return False
        if is_op(node, *_PASSED_ON) and not _trained_through(node.outputs[0]):
            return False
    return True


def _is_of_groups(node: ir.Node, index: int) -> bool:
    """Whether a constant is the ones or zeros of a group normalization.

    Exporters write it as one of instances, between a Reshape to groups and one back; its scale
    and its shift come behind.
    """
    producer = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
    grouped = producer is not None and is_op(producer, "Reshape")
    return grouped and index > 0 and is_op(node, "InstanceNormalization")


def _is_table(value: ir.Value) -> bool:
    """Whether a constant masks scores, or multiplies positions: it has huge numbers or axes."""
    tensor = value.const_value
    if tensor is None:
        return False
    factor = any(is_op(node, "Mul", "Div") for node, _ in value.uses())
    if factor and sum(size != 1 for size in tensor.shape.numpy()) > 1:
        return True
    added = any(is_op(node, "Add", "Sub") for node, _ in value.uses())
    return added and not bool((abs(tensor.numpy().astype("float32")) < _LARGEST).all())


def hold(module: nn.Module, initializer: ir.Value, *, train: bool) -> str:
    """Let a module hold an initializer's tensor, in a tree of modules that follows its name.

    `layer1.0.weight` becomes the key of the same name in the module's `state_dict`. A part that
    is empty, or that a module already uses for something else, gets underscores behind it.

    Args:
        module: The root of the tree.
        initializer: Has a name and a tensor.
        train: Whether it is a parameter, and not a buffer.

    Returns:
        The key.
    """
    *path, last = (initializer.name or "").split(".")
    at = module
    keys: list[str] = []
    for part in path:
        key = _free(at, part, inner=True)
        if key not in at._modules:
            at.register_module(key, nn.Module())
        at = at.get_submodule(key)
        keys.append(key)
    key = _free(at, last, inner=False)
    tensor = torch_tensor(_tensor(initializer))
    if train:
        at.register_parameter(key, nn.Parameter(tensor))
    else:
        at.register_buffer(key, tensor)
    return ".".join((*keys, key))


def _tensor(initializer: ir.Value) -> ir.TensorProtocol:
    tensor = initializer.const_value
    if tensor is None:
        raise ValueError(f"{initializer.name} has no tensor")
    return tensor


def _free(module: nn.Module, key: str, *, inner: bool) -> str:
    key = key or "_"
    while hasattr(module, key) and not (inner and key in module._modules):
        key += "_"
    return key


def found(module: nn.Module, key: str) -> torch.Tensor:
    """Return the parameter or buffer of a key."""
    path, _, name = key.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(path), name)
    return tensor
