"""How many multiply-accumulates one node makes, from the shapes of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from graphopt.model.constants import ONNX_DOMAINS

Dims = tuple[int | None, ...]
"""A shape; None stands for a dimension that is not known."""


class UnknownSizeError(Exception):
    """A size that a rule needs is not known. The message names it."""


@dataclass(frozen=True)
class Call:
    """A node with the shapes of all values in reach."""

    node: onnx.NodeProto
    shapes: Mapping[str, Dims]

    def attribute(self, name: str, default: object = None) -> object:
        """Return an attribute as ONNX's Python types, or the default."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def integer(self, name: str, default: int = 0) -> int:
        """Return an integer attribute, or the default."""
        value = self.attribute(name, default)
        if not isinstance(value, int):
            raise UnknownSizeError(f"attribute {name!r} is no integer")
        return value

    def has(self, index: int) -> bool:
        """Tell whether an optional input is there."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def operand(self, index: int) -> tuple[int, ...]:
        """Return the shape of an input; raise UnknownSizeError unless all of it is known."""
        if not self.has(index):
            raise UnknownSizeError(f"input {index} is absent")
        return self._known(self.node.input[index])

    def result(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of an output, as `operand` does."""
        return self._known(self.node.output[index])

    def _known(self, name: str) -> tuple[int, ...]:
        dims = self.shapes.get(name)
        if dims is None:
            raise UnknownSizeError(f"the shape of {name!r} is not known")
        known = tuple(dim for dim in dims if dim is not None)
        if len(known) < len(dims):
            raise UnknownSizeError(f"{name!r} has dynamic dimensions")
        return known


def _convolution(weight: int) -> Callable[[Call], int]:
    # Each output element sums over the kernel and over the input channels of its group:
    # W is [M, C/groups, *kernel].
    return lambda call: math.prod(call.result()) * math.prod(call.operand(weight)[1:])


def _transposed_convolution(call: Call) -> int:
    # Each input element is spread over the kernel and the output channels of its group.
    return math.prod(call.operand(0)) * math.prod(call.operand(1)[1:])


def _gemm(weight: int) -> Callable[[Call], int]:
    def count(call: Call) -> int:
        rows = call.operand(0)
        columns = call.operand(weight)
        if len(rows) != 2 or len(columns) != 2:
            raise UnknownSizeError("an operand is not a matrix")
        outer = columns[0 if call.integer("transB") else 1]
        return math.prod(rows) * outer

    return count


def _matmul(second: int) -> Callable[[Call], int]:
    def count(call: Call) -> int:
        first, other = call.operand(0), call.operand(second)
        if call.integer("transA") and len(first) > 1:
            first = (*first[:-2], first[-1], first[-2])
        if call.integer("transB") and len(other) > 1:
            other = (*other[:-2], other[-1], other[-2])
        batch = np.broadcast_shapes(first[:-2], other[:-2])
        rows = first[-2] if len(first) > 1 else 1
        columns = other[-1] if len(other) > 1 else 1
        return math.prod(batch) * rows * first[-1] * columns

    return count


def _blocked_matmul(call: Call) -> int:
    return math.prod(call.operand(0)) * call.integer("N")


def _recurrent(call: Call) -> int:
    # X is [sequence, batch, input] (or batch first), W [directions, gates*hidden, input] and
    # R [directions, gates*hidden, hidden]; peepholes are elementwise.
    steps = math.prod(call.operand(0)[:2])
    return steps * (math.prod(call.operand(1)) + math.prod(call.operand(2)))


def _attention(call: Call) -> int:
    # ai.onnx Attention-23: [batch, heads, length, head size] or [batch, length, hidden].
    queries, keys, values = (call.operand(index) for index in range(3))
    past = call.operand(4)[2] if call.has(4) else 0
    if len(queries) == 4:
        batch, heads, length, _ = queries
        total = keys[2] + past
        return batch * heads * length * total * (queries[3] + values[3])
    heads = call.integer("q_num_heads", 1)
    key_heads = call.integer("kv_num_heads", 1)
    if key_heads < 1:
        raise UnknownSizeError("kv_num_heads is not positive")
    total = keys[1] + past
    return queries[0] * queries[1] * total * (queries[2] + values[2] // key_heads * heads)


def _multi_head_attention(call: Call) -> int:
    # com.microsoft: query [batch, length, hidden], key and value [batch, keys, hidden].
    queries, keys, values = (call.operand(index) for index in range(3))
    if not len(queries) == len(keys) == len(values) == 3:
        raise UnknownSizeError("query, key and value are packed")
    return queries[0] * queries[1] * keys[1] * (queries[2] + values[2])


def _projected_attention(call: Call) -> int:
    # com.microsoft: input [batch, length, input], weights [input, 3*hidden], then attention.
    batch, length, _ = call.operand(0)
    projection = math.prod(call.operand(1))
    hidden = call.operand(1)[1] // 3
    return batch * length * projection + 2 * batch * length * length * hidden


def _einsum(call: Call) -> int:
    equation = call.attribute("equation")
    if not isinstance(equation, bytes):
        raise UnknownSizeError("the equation is absent")
    terms = equation.decode().replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        dims = call.operand(index)
        labels = _labels(term, len(dims))
        for label, dim in zip(labels, dims, strict=True):
            sizes[label] = max(dim, sizes.get(label, 1))
    # Contracted pair by pair, no step costs more than all labels together.
    return (len(terms) - 1) * math.prod(sizes.values())


def _labels(term: str, rank: int) -> list[str]:
    head, dots, tail = term.partition("...")
    hidden = rank - len(head) - len(tail) if dots else 0
    # Broadcast dimensions align at the right.
    return [*head, *(f".{position}" for position in range(hidden, 0, -1)), *tail]


def _linear_model(call: Call) -> int:
    coefficients = call.attribute("coefficients")
    if not isinstance(coefficients, list):
        raise UnknownSizeError("the coefficients are absent")
    rows = call.operand(0)
    return (rows[0] if len(rows) > 1 else 1) * len(coefficients)


_RULES: dict[str, Callable[[Call], int]] = {
    "Attention": _attention,
    "CausalConvWithState": _convolution(1),
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "DeformConv": _convolution(1),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _matmul(1),
    "Einsum": _einsum,
    "FusedConv": _convolution(1),
    "FusedGemm": _gemm(1),
    "FusedMatMul": _matmul(1),
    "GRU": _recurrent,
    "Gemm": _gemm(1),
    "LSTM": _recurrent,
    "LinearClassifier": _linear_model,
    "LinearRegressor": _linear_model,
    "MatMul": _matmul(1),
    "MatMulBnb4": _blocked_matmul,
    "MatMulInteger": _matmul(1),
    "MatMulIntegerToFloat": _matmul(1),
    "MatMulNBits": _blocked_matmul,
    "MultiHeadAttention": _multi_head_attention,
    "QGemm": _gemm(3),
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matmul(3),
    "RNN": _recurrent,
}
_CONTRIB_RULES = {**_RULES, "Attention": _projected_attention, "QAttention": _projected_attention}


def rule(domain: str, op_type: str) -> Callable[[Call], int] | None:
    """Return what counts an operator, or None for one that makes no multiply-accumulates."""
    if domain == "com.microsoft":
        return _CONTRIB_RULES.get(op_type)
    return _RULES.get(op_type) if domain in (*ONNX_DOMAINS, "ai.onnx.ml") else None
