"""Constant nodes, and the tensors that they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

ONNX_DOMAINS = ("", "ai.onnx")
"""Both names of ONNX's own operator set."""

_VALUE_DTYPES: dict[str, type[np.generic]] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
"""Element types of the short forms of Constant; `sparse_value` is not read."""


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of some operators of ONNX's own domain."""
    return node is not None and node.op_type in op_types and node.domain in ONNX_DOMAINS


def held_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the tensor that a Constant node holds, whichever attribute it is in.

    None for other nodes, and for a Constant whose attribute refers to one of its function: that
    varies with the call.
    """
    if not is_op(node, "Constant") or len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    return None if attribute.is_ref() else _tensor_of(attribute)


def _tensor_of(attribute: ir.Attr) -> ir.TensorProtocol | None:
    if attribute.type == ir.AttributeType.TENSOR:
        # `as_tensor` checks the whole protocol of tensors, which takes longer than all the rest.
        tensor: ir.TensorProtocol = attribute.value
        return tensor
    if attribute.name in ("value_string", "value_strings"):
        return _strings(attribute.value)
    dtype = _VALUE_DTYPES.get(attribute.name)
    return None if dtype is None else ir.Tensor(np.array(attribute.value, dtype))


def _strings(value: str | Sequence[str]) -> ir.StringTensor:
    if isinstance(value, str):
        return ir.StringTensor([value.encode()], shape=ir.Shape([]))
    return ir.StringTensor([text.encode() for text in value], shape=ir.Shape([len(value)]))
