"""Weights with a factor or a bias worked in: exact up to one rounding, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, add_constant, constant
from graphopt.rewrite.names import Names
from passes.cleanup.affine import Wide

_LAZY_BYTES = 4 << 20
"""Larger weights are computed anew where they are read, from their source on disk."""

_CHUNK_ELEMENTS = 1 << 20
"""How many elements are widened to double precision at a time."""

_STEPS = {
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
}
"""The distance from 1 to the next number."""

_NEGLIGIBLE = 1e-36
"""An error of a weight that needs activations beyond 1e30 to be seen."""


def scaled(tensor: ir.TensorProtocol, factor: Wide, name: str | None) -> ir.TensorProtocol | None:
    """Multiply a weight with a factor that broadcasts to it.

    Returns:
        The product, lazy if large; None if it overflows, or is so small for its type that rounding
        it costs more than the rounding of its largest elements does.
    """
    if not _survives(tensor, factor):
        return None
    if tensor.size * tensor.dtype.itemsize <= _LAZY_BYTES:
        return _multiply(tensor, factor, name)
    compute = partial(_multiply, tensor, factor, name)
    return ir.LazyTensor(
        compute, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), cache=False, name=name
    )


def rounded(values: Wide, dtype: ir.DataType, name: str | None) -> ir.TensorProtocol | None:
    """Round values to an element type; None if one overflows."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype.numpy())
    if not np.isfinite(result.astype(np.float64)).all():
        return None
    return ir.Tensor(result, dtype=dtype, name=name)


def put(node: ir.Node, index: int, tensor: ir.TensorProtocol, base: str, place: Place) -> None:
    """Let an input of a node hold a tensor.

    A constant that only this node reads gets new contents and keeps its name; else one named after
    `base` is added in front of the node.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None and is_owned(old):
        producer = old.producer()
        if producer is None:
            old.const_value = tensor
        else:
            producer.attributes.clear()
            producer.attributes["value"] = ir.AttrTensor("value", tensor)
        old.shape, old.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        return
    name = place.names.fresh(base)
    new = add_constant(node, name, _named(tensor, name), in_function=place.in_function)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, new)


class Place:
    """Where constants are put.

    Args:
        model: Whose names must not be taken twice.
        in_function: Whether the graph belongs to a function, which has no initializers.
    """

    def __init__(self, model: ir.Model, *, in_function: bool) -> None:
        self._model = model
        self.in_function = in_function

    @property
    def names(self) -> Names:
        """The names of the model, as they are when asked for."""
        return Names.of(self._model)


def is_owned(value: ir.Value) -> bool:
    """Whether a constant is read once and can be replaced."""
    return len(value.uses()) == 1 and not value.is_graph_output() and constant(value) is not None


def _named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    tensor.name = name
    return tensor


def _multiply(tensor: ir.TensorProtocol, factor: Wide, name: str | None) -> ir.Tensor[Array]:
    source = tensor.numpy()
    result = np.empty(source.shape, source.dtype)
    for rows, product in _products(source, factor):
        result[rows] = product.astype(source.dtype)
    return ir.Tensor(result, dtype=tensor.dtype, name=name)


def _products(source: Array, factor: Wide) -> Iterator[tuple[slice, Wide]]:
    """Yield slices of axis 0 and the product there, in double precision."""
    aligned = factor.reshape((1,) * (source.ndim - factor.ndim) + factor.shape)
    step = max(1, _CHUNK_ELEMENTS // max(1, source[:1].size))
    for start in range(0, len(source), step):
        rows = slice(start, start + step)
        part = aligned[rows] if aligned.shape[0] > 1 else aligned
        yield rows, source[rows].astype(np.float64) * part


def _survives(tensor: ir.TensorProtocol, factor: Wide) -> bool:
    """Whether rounding the product is as harmless as rounding the weight was.

    The error is measured against the rows of the product: a few subnormal numbers among normal ones
    do no harm, a row of them does.
    """
    source = tensor.numpy()
    step = _STEPS[tensor.dtype]
    for _, product in _products(source, factor):
        with np.errstate(over="ignore"):
            kept = product.astype(source.dtype).astype(np.float64)
        rows, error = product.reshape(len(product), -1), (kept - product).reshape(len(product), -1)
        if not np.isfinite(kept).all() and np.isfinite(source.astype(np.float64)).all():
            return False
        allowed = step * np.linalg.norm(rows, axis=1) + _NEGLIGIBLE
        if not (np.linalg.norm(error, axis=1) <= allowed).all():
            return False
    return True
