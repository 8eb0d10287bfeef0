"""Dequantization that is written out: Mul(Sub(Cast(integers), zero point), scale).

ONNX Runtime computes it once, when a session starts; a DequantizeLinear of a constant runs every
time. Scales of blocks are repeated by a Gather with the index of each element's block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.passed import Passed, Quantization

OPERATORS = ("Sub", "Mul")
"""What may follow the Cast of stored integers."""


_NARROW_BITS = 16
"""Integers of more bits are not stored for being small."""


def dequantization(node: ir.Node) -> tuple[ir.Node, ...]:
    """Return the nodes that make real numbers of stored integers, the last of which is given.

    Args:
        node: Any node.

    Returns:
        The node, and what is in front of it: Cast, Sub, and what lays scales and zero points out.
        Nothing where the node is no Mul that scales a constant of at most 16-bit integers.
    """
    if not is_op(node, "Mul") or len(node.inputs) != 2:
        return ()
    for value, scale in (tuple(node.inputs), tuple(reversed(node.inputs))):
        stored, shifts = _stored(value)
        if stored and repeated(scale) is not None:
            return (node, *stored, *shifts, *_layout(scale))
    return ()


def scaled(node: ir.Node) -> tuple[ir.TensorProtocol, Quantization] | None:
    """Return the integers that the last node of a `dequantization` scales, and how.

    None where no DequantizeLinear could do the same.
    """
    parts = dequantization(node)
    cast = next((part for part in parts if _casts_integers(part, parts)), None)
    tensor = None if cast is None else constant(cast.inputs[0])
    if cast is None or tensor is None:
        return None
    passed: Passed | str = replace(Passed.root(tensor), unscaled=True)
    value = cast.outputs[0]
    while isinstance(passed, Passed) and passed.quantization is None and passed.opaque is None:
        reader = next(user for user, _ in value.uses() if user in parts)
        passed = followed(reader, list(reader.inputs).index(value), passed)
        value = reader.outputs[0]
    if isinstance(passed, str) or passed.quantization is None:
        return None
    return tensor, passed.quantization


def _casts_integers(node: ir.Node, parts: tuple[ir.Node, ...]) -> bool:
    """Whether a part is the Cast of the stored integers: the first operand of what reads it."""
    if not is_op(node, "Cast"):
        return False
    readers = [user for user, _ in node.outputs[0].uses() if user in parts]
    return any(
        is_op(user, "Mul") or (is_op(user, "Sub") and user.inputs[0] is node.outputs[0])
        for user in readers
    )


def _stored(value: ir.Value | None) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]]:
    """Return the nodes from stored integers to a value, and those that lay zero points out."""
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Cast", "Sub"):
        return (), ()
    if producer.op_type == "Sub":
        inner, _ = _stored(producer.inputs[0])
        shift = producer.inputs[1]
        known = bool(inner) and repeated(shift) is not None
        return ((producer, *inner), _layout(shift)) if known else ((), ())
    tensor = constant(producer.inputs[0])
    to = ir.DataType(producer.attributes.get_int("to", 1) or 1)
    if tensor is None or not tensor.dtype.is_integer() or not to.is_floating_point():
        return (), ()
    return ((producer,), ()) if tensor.dtype.bitwidth <= _NARROW_BITS else ((), ())


def _layout(value: ir.Value | None) -> tuple[ir.Node, ...]:
    """Return the Casts and Gathers between a constant and a value that repeats it."""
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Cast", "Gather"):
        return ()
    return (producer, *_layout(producer.inputs[0]))


@dataclass(frozen=True)
class Repeated:
    """A constant whose elements are repeated along an axis.

    Args:
        tensor: The constant, without an element twice.
        shape: Its shape as it is read.
        axis: Where elements are repeated.
        block_size: How often each is; the last one may be less often. 0: none is.
    """

    tensor: ir.TensorProtocol
    shape: tuple[int, ...]
    axis: int = 0
    block_size: int = 0


def followed(node: ir.Node, index: int, passed: Passed) -> Passed | str:
    """Follow integers that were cast to floats through the node that shifts or scales them."""
    what = f"a {node.op_type}"
    operand = repeated(node.inputs[1 - index])
    if operand is None or (node.op_type == "Sub" and (index or passed.shift is not None)):
        return what
    found = _quantization(operand, passed)
    if found is None or (node.op_type == "Sub" and not _is_whole(operand.tensor)):
        why = "scaled in a way that no DequantizeLinear does"
        return replace(passed, opaque=why, unscaled=False)
    if node.op_type == "Sub":
        return replace(passed, shift=found)
    shift = passed.shift
    zero_point = None if shift is None else shift.scale
    if shift is not None and (shift.axis, shift.block_size) != (found.axis, found.block_size):
        if shift.axis is not None:
            return replace(passed, opaque="its zero points and scales differ in axis")
        # One zero point for all channels: users of a Quantization want one for each.
        zero_point = _spread(shift.scale, found.scale)
    quantization = replace(found, zero_point=zero_point)
    return replace(passed, quantization=quantization, unscaled=False, shift=None)


def repeated(value: ir.Value | None) -> Repeated | None:
    """Read a constant that may be stored as integers and cast, and repeated by a Gather."""
    producer = None if value is None else value.producer()
    if producer is not None and is_op(producer, "Cast"):
        return repeated(producer.inputs[0])
    if producer is not None and is_op(producer, "Gather"):
        return _gathered(producer)
    tensor = constant(value)
    return None if tensor is None else Repeated(tensor, _sizes(tensor))


def _gathered(node: ir.Node) -> Repeated | None:
    source, indices = repeated(node.inputs[0]), constant(node.inputs[1])
    if source is None or source.block_size or indices is None or len(indices.shape) != 1:
        return None
    axis, rank = node.attributes.get_int("axis", 0) or 0, len(source.shape)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    index = indices.numpy()
    block_size = int(np.count_nonzero(index == 0))
    if not block_size or not np.array_equal(index, np.arange(index.size) // block_size):
        return None
    if source.shape[axis] != -(-index.size // block_size):
        return None
    shape = (*source.shape[:axis], index.size, *source.shape[axis + 1 :])
    return Repeated(source.tensor, shape, axis, block_size)


def _quantization(operand: Repeated, passed: Passed) -> Quantization | None:
    """Say which axes of the stored tensor an operand follows, that broadcasts to what is read."""
    lead = len(passed.sizes) - len(operand.shape)
    sizes = (1,) * lead + operand.shape
    if lead < 0 or any(own not in (1, size) for own, size in zip(sizes, passed.sizes, strict=True)):
        return None
    if operand.block_size:
        axis = passed.axes[lead + operand.axis]
        whole = sizes == passed.sizes and passed.is_in_order
        return Quantization(operand.tensor, None, axis, operand.block_size) if whole else None
    follows = [axis for axis, size in enumerate(sizes) if size > 1]
    shared = [axis for axis, size in enumerate(passed.sizes) if sizes[axis] < size]
    if not follows:
        return Quantization(operand.tensor, None, None)
    if len(follows) == 1:
        axis = passed.axes[follows[0]]
        return None if axis is None else Quantization(operand.tensor, None, axis)
    if len(shared) == 1 and passed.is_in_order:
        # One block spans the axis.
        return Quantization(operand.tensor, None, passed.axes[shared[0]], passed.sizes[shared[0]])
    return None


def _is_whole(tensor: ir.TensorProtocol) -> bool:
    """Whether all zero points are integers."""
    if tensor.dtype.is_integer():
        return True
    points = tensor.numpy().astype(np.float64)
    return bool(np.array_equal(points, np.rint(points)))


def _spread(one: ir.TensorProtocol, like: ir.TensorProtocol) -> ir.TensorProtocol:
    element = one.numpy().reshape(())
    return ir.Tensor(np.full(_sizes(like), element, element.dtype), dtype=one.dtype)


def _sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape.numpy())
