"""Two linear nodes put together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import add_constant
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import remove, replace
from passes.cleanup.affine import FLOATS, Wide
from passes.cleanup.folded import is_owned, rounded
from passes.cleanup.linear import Linear
from passes.merge.fuse_chain.links import Link
from passes.merge.fuse_chain.products import Product, Products
from passes.merge.fuse_siblings.biases import bias_of
from passes.merge.fuse_siblings.sources import RefusedError, source_of


@dataclass(frozen=True)
class Joined:
    """One node instead of two, ready to be put in.

    Args:
        link: The two.
        weight: Of the one.
        bias: Of the one, in front of nothing: None where there is none.
    """

    link: Link
    weight: ir.TensorProtocol
    bias: ir.TensorProtocol | None

    def apply(self, names: Names) -> None:
        """Put the one in front of the second, and take both out."""
        link, tail = self.link, self.link.second.tail
        base = link.second.node.name or link.second.node.outputs[0].name or "chain"
        inputs: list[ir.Value | None] = [link.first.node.inputs[link.first.data_index]]
        weight = self._constant(names.fresh(f"{base}_chain_weight"), self.weight)
        inputs.insert(link.first.weight_index, weight)
        bias = None
        if self.bias is not None:
            bias = self._constant(names.fresh(f"{base}_chain_bias"), self.bias)
        is_matmul = link.op_type == "MatMul"
        if bias is not None and not is_matmul:
            inputs.append(bias)
        output = self._node(link.op_type, inputs, names.fresh(f"{base}_chain"))
        if bias is not None and is_matmul:
            output = self._node("Add", [output, bias], names.fresh(f"{base}_chain_sum"))
        old = tail.outputs[0]
        name, output.shape, output.type = old.name, old.shape, old.type
        output.metadata_props.update(old.metadata_props)
        replace(old, output)
        remove(tail)
        output.name = name

    def _node(self, op_type: str, inputs: list[ir.Value | None], name: str) -> ir.Value:
        second = self.link.second.node
        attributes = () if op_type == "Add" else self.link.attributes
        node = ir.Node(second.domain, op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        node.outputs[0].type = second.outputs[0].type
        assert second.graph is not None
        second.graph.insert_before(second, node)
        return node.outputs[0]

    def _constant(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = name
        return add_constant(self.link.second.node, name, tensor, in_function=self.link.in_function)


def join(link: Link, at: str, products: Products) -> Joined:
    """Compute the weight and the bias of one node that stands for two.

    Args:
        link: The two.
        at: Where they are, in the model and its copies.
        products: Those that are known.

    Raises:
        RefusedError: That is not possible, or would enlarge the file.
    """
    first, second = (_stored(item) for item in (link.first, link.second))
    if first.dtype != second.dtype:
        raise RefusedError(f"their weights are {first.dtype.name} and {second.dtype.name}")
    _check_growth(link, first.dtype)
    bias = _bias(link, second)
    return Joined(link, products.tensor(at, Product(link, first, second)), bias)


def _stored(found: Linear) -> ir.TensorProtocol:
    source = source_of(found.node.inputs[found.weight_index])
    if source is None:
        raise RefusedError(f"the weight of {found.node.op_type} is not constant")
    if source.node is not None:
        raise RefusedError(f"the weight of {found.node.op_type} is quantized")
    if source.stored.dtype not in FLOATS:
        raise RefusedError(f"the weight is of type {source.stored.dtype.name}")
    return source.stored


def _check_growth(link: Link, dtype: ir.DataType) -> None:
    """Refuse where a weight stays for others, and the product comes on top."""
    freed, kept = 0, []
    for found in (link.first, link.second):
        value = found.node.inputs[found.weight_index]
        if value is not None and is_owned(value):
            freed += math.prod(found.weight)
        elif value is not None:
            kept.append(value.name)
    if kept and math.prod(link.weight_shape) > freed:
        grown = (math.prod(link.weight_shape) - freed) * dtype.itemsize
        raise RefusedError(f"others read {kept[0]}, so that the file would grow by {grown:,} bytes")


def _bias(link: Link, weight: ir.TensorProtocol) -> ir.TensorProtocol | None:
    found: Wide | None = None
    inner = _values(link.first)
    if inner is not None and inner.any():
        found = link.second.passed(inner, np.asarray(weight.numpy(), np.float64))
        if found is None:
            raise RefusedError("the bias between them reaches the output unevenly: it is padded")
    outer = _values(link.second)
    if outer is not None:
        found = outer if found is None else found + outer
    if found is None and inner is not None and link.op_type == "Gemm":
        found = np.zeros(link.second.out.channels)  # which it must have before opset 11
    if found is None:
        return None
    bias = rounded(found, weight.dtype, None)
    if bias is None:
        raise RefusedError(f"the bias leaves the range of {weight.dtype.name}")
    return bias


def _values(found: Linear) -> Wide | None:
    bias = bias_of(found)
    if bias is None:
        return None
    return np.asarray(bias.spread(found.out.channels), np.float64) * bias.factor
