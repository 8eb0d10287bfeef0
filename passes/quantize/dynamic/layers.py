"""The layers that can be quantized dynamically: what they read, and what replaces them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import Array, array, is_op
from graphopt.rewrite.selection import address
from passes.quantize.dynamic.recurrent import write_lstm
from passes.quantize.dynamic.stored import Stored, stored_behind
from passes.quantize.dynamic.writer import Activation, Quantized, Writer

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Layer:
    """A node to be quantized.

    Args:
        node: The node.
        scope: Where it stands.
        weights: What it reads as weights; none where both sides are activations.
        dtype: What it computes in.
        write: Replaces it.
    """

    node: ir.Node
    scope: Scope
    weights: tuple[Stored, ...]
    dtype: ir.DataType
    write: Callable[[Layer, Writer], None]

    @property
    def at(self) -> str:
        """Its address."""
        return address(self.node, self.scope)


def layer(
    node: ir.Node, scope: Scope, dtype: ir.DataType | None, *, contrib: bool, activations: bool
) -> Layer | str:
    """Say how a node is quantized, or why it is not.

    Args:
        node: A MatMul, Gemm, Conv or LSTM.
        scope: Where it stands.
        dtype: The type of its first input where it is known.
        contrib: Whether com.microsoft's operators may be used.
        activations: Whether a MatMul of two activations is quantized.
    """
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "the function's caller sets its attributes"
    if node.op_type == "LSTM":
        return _lstm(node, scope, contrib=contrib)
    weight = stored_behind(node.inputs[1])
    if weight is None:
        return _of_activations(node, scope, dtype, asked=activations)
    refusal = _refusal(node, weight)
    if refusal is not None:
        return refusal
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        weight = weight.transposed()
    return Layer(node, scope, (weight,), weight.dtype, _WRITERS[node.op_type])


def _refusal(node: ir.Node, weight: Stored) -> str | None:
    rank = len(weight.shape)
    if stored_behind(node.inputs[0]) is not None:
        return "both operands are constant"
    if weight.dtype not in FLOATS:
        return f"its weight is {weight.dtype.name}"
    if rank < {"Conv": 3}.get(node.op_type, 2):
        return "its weight is a vector"
    if 0 in weight.shape:
        return "its weight is empty"
    return None


def _of_activations(
    node: ir.Node, scope: Scope, dtype: ir.DataType | None, *, asked: bool
) -> Layer | str:
    right = node.inputs[1]
    if stored_behind(node.inputs[0]) is not None:
        return "the weight is the left operand, which the integer kernels do not pack"
    if right is not None and right.is_initializer():
        return "the caller may override its weight: it is also an input of the graph"
    if not asked or node.op_type != "MatMul":
        return "both of its operands are activations"
    if dtype not in FLOATS:
        return "the type of its operands is not known"
    return Layer(node, scope, (), dtype, _write_matmul_of_activations)


def _lstm(node: ir.Node, scope: Scope, *, contrib: bool) -> Layer | str:
    if not contrib:
        return "an LSTM needs com.microsoft's DynamicQuantizeLSTM: ask with contrib=True"
    found = [stored_behind(node.inputs[1]), stored_behind(node.inputs[2])]
    weights = tuple(weight for weight in found if weight is not None)
    if len(weights) < 2:
        return "its weights are computed"
    if any(weight.dtype != ir.DataType.FLOAT for weight in weights):
        return "its weights are not float, and the operator has no other"
    if node.attributes.get_int("layout", 0):
        return "its batch comes first (layout=1), which the operator does not have"
    if node.attributes.get_int("input_forget", 0) or "clip" in node.attributes:
        return "it has input_forget or clip, which the operator does not have"
    return Layer(node, scope, weights, ir.DataType.FLOAT, write_lstm)


def weight_problem(layer: Layer) -> str | None:
    """Say why the numbers of a weight cannot be quantized, where they cannot."""
    for weight in layer.weights:
        if not np.isfinite(weight.array()).all():
            return f"its weight {weight.root.name!r} holds NaN or infinity"
    return None


def _write_matmul(layer: Layer, writer: Writer) -> None:
    node, weight = layer.node, layer.weights[0]
    rank = len(weight.shape)
    scale_shape = (weight.shape[-1],) if rank == 2 else (*(1 for _ in weight.shape[1:]), -1)
    left = writer.activation(node, _input(node, 0), layer.dtype)
    # One zero point per column is for matrices; stacks of them have one in all.
    right = writer.weight(weight, rank - 1, scale_shape, symmetric=rank > 2)
    writer.replace(node, _product(layer, writer, left, right))


def _write_matmul_of_activations(layer: Layer, writer: Writer) -> None:
    node = layer.node
    left = writer.activation(node, _input(node, 0), layer.dtype)
    right = writer.activation(node, _input(node, 1), layer.dtype)
    both = Quantized(right.stored, right.scale, right.zero_point)
    writer.replace(node, _product(layer, writer, left, both))


def _write_gemm(layer: Layer, writer: Writer) -> None:
    node, weight = layer.node, layer.weights[0]
    base = _base(node)
    left = writer.activation(node, _input(node, 0), layer.dtype)
    if node.attributes.get_int("transA", 0) == 1:
        turned = writer.add(node, "Transpose", [left.stored], f"{base}_transposed", perm=[1, 0])
        left = Activation(turned, left.scale, left.zero_point)
    right = writer.weight(weight, 1, (weight.shape[1],))
    alpha = node.attributes.get_float("alpha", 1.0) or 0.0
    if alpha != 1.0:
        factor = writer.constant(node, f"{base}_alpha", np.asarray(alpha, np.float32))
        scale = writer.add(node, "Mul", [left.scale, factor], f"{base}_scaled")
        left = Activation(left.stored, scale, left.zero_point)
    product = _product(layer, writer, left, right)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        product = writer.add(node, "Add", [product, _times_beta(layer, writer, bias)], base)
    writer.replace(node, product)


def _times_beta(layer: Layer, writer: Writer, bias: ir.Value) -> ir.Value:
    node = layer.node
    beta = node.attributes.get_float("beta", 1.0) or 0.0
    if beta == 1.0:
        return bias
    known = array(bias)
    dtype = layer.dtype.numpy()
    if known is not None:
        scaled = (known.astype(np.float64) * beta).astype(dtype)
        return writer.constant(node, f"{bias.name}_scaled", scaled)
    factor = writer.constant(node, f"{_base(node)}_beta", np.asarray(beta, dtype))
    return writer.add(node, "Mul", [bias, factor], f"{bias.name}_scaled")


def _write_conv(layer: Layer, writer: Writer) -> None:
    node, weight = layer.node, layer.weights[0]
    base, ones = _base(node), (1,) * (len(weight.shape) - 2)
    left = writer.activation(node, _input(node, 0), layer.dtype)
    right = writer.weight(weight, 0, (weight.shape[0], *ones), symmetric=True)
    attributes = {name: value.value for name, value in node.attributes.items()}
    inputs = [left.stored, right.stored, left.zero_point]
    if right.zero_point is not None:
        inputs.append(right.zero_point)
    integers = writer.add(node, "ConvInteger", inputs, f"{base}_integers", **attributes)
    product = _scaled(layer, writer, integers, left, right)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        product = writer.add(node, "Add", [product, _as_channels(layer, writer, bias)], base)
    writer.replace(node, product)


def _as_channels(layer: Layer, writer: Writer, bias: ir.Value) -> ir.Value:
    shape = (-1, *(1 for _ in layer.weights[0].shape[2:]))
    known: Array | None = array(bias)
    if known is not None:
        return writer.constant(layer.node, f"{bias.name}_channels", known.reshape(shape))
    to = writer.constant(layer.node, f"{bias.name}_shape", np.asarray(shape, np.int64))
    return writer.add(layer.node, "Reshape", [bias, to], f"{bias.name}_channels")


def _product(layer: Layer, writer: Writer, left: Activation, right: Quantized) -> ir.Value:
    inputs = [left.stored, right.stored, left.zero_point]
    if right.zero_point is not None:
        inputs.append(right.zero_point)
    integers = writer.add(layer.node, "MatMulInteger", inputs, f"{_base(layer.node)}_integers")
    return _scaled(layer, writer, integers, left, right)


def _scaled(
    layer: Layer, writer: Writer, integers: ir.Value, left: Activation, right: Quantized
) -> ir.Value:
    """Mul(Cast(integers), Mul(scale, scale)), operands in the order that ONNX Runtime fuses."""
    node, base = layer.node, _base(layer.node)
    real = writer.add(node, "Cast", [integers], f"{base}_real", to=int(ir.DataType.FLOAT))
    scale = writer.add(node, "Mul", [left.scale, right.scale], f"{base}_scale")
    product = writer.add(node, "Mul", [real, scale], f"{base}_product")
    if layer.dtype == ir.DataType.FLOAT:
        return product
    return writer.add(node, "Cast", [product], f"{base}_cast", to=int(layer.dtype))


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.name!r} leaves out input {index}")
    return value


def _base(node: ir.Node) -> str:
    return node.outputs[0].name or node.name or node.op_type


_WRITERS: dict[str, Callable[[Layer, Writer], None]] = {
    "MatMul": _write_matmul,
    "Gemm": _write_gemm,
    "Conv": _write_conv,
}


def is_layer(node: ir.Node) -> bool:
    """Whether a node is of a kind that can be quantized here."""
    return is_op(node, "MatMul", "Gemm", "Conv", "LSTM")
