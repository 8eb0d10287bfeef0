"""Operators that NumPy computes to the last bit as ONNX Runtime does.

They move data, compute on integers, or apply one correctly rounded IEEE operation per element, so
there is one right answer. A model has hundreds of them in its shape arithmetic, and a table entry
costs a thousandth of a session. Everything else is left to ONNX Runtime's own kernels.

A kernel returns None for what it does not cover, and never allocates more than `limit` bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from passes.cleanup import layout_kernels
from passes.cleanup.kernel_call import PLAIN_TYPES, Call, Kernel, first


def evaluate(call: Call) -> Array | None:
    """Compute the only output of a node; None where it has no exact kernel here."""
    kernel = _KERNELS.get(call.node.op_type)
    if kernel is None or len(call.node.outputs) != 1 or call.input(0) is None:
        return None
    if not all(array is None or _is_covered(call.node, array.dtype) for array in call.inputs):
        return None
    with np.errstate(all="ignore"):
        return kernel(call)


def _is_covered(node: ir.Node, dtype: np.dtype[Any]) -> bool:
    """Numbers are computed with; types that NumPy only stores (float8, int4) can be moved."""
    if dtype.kind in "OSU":
        return False
    return (
        dtype.kind in "biuf"
        or dtype == _BFLOAT16
        or node.op_type in (*layout_kernels.KERNELS, "Where")
    )


def _cast(call: Call) -> Array | None:
    """Cast between numbers whose rounding is fixed; floats to integers may overflow, and do not."""
    array = first(call)
    target = ir.DataType(call.integer("to", 0))
    if target not in PLAIN_TYPES or array.dtype not in _CAST_SOURCES:
        return None
    dtype = target.numpy()
    if not call.fits(array.shape, dtype.itemsize):
        return None
    if array.dtype.kind == "f" and dtype.kind in "iu":
        return None
    return array.astype(dtype)


_CAST_SOURCES = frozenset(target.numpy() for target in PLAIN_TYPES)


def _broadcast(call: Call, *arrays: Array) -> tuple[int, ...] | None:
    if call.opset < 7 and len({array.shape for array in arrays}) > 1:
        return None
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:  # the model cannot run; that is for the checker to say
        return None
    return shape if call.fits(shape, max(array.itemsize for array in arrays)) else None


def _constant_of_shape(call: Call) -> Array | None:
    shape = tuple(int(size) for size in first(call).reshape(-1))
    attribute = call.node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    if any(size < 0 for size in shape) or not call.fits(shape, fill.itemsize):
        return None
    return np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _range(call: Call) -> Array | None:
    bounds = [array for array in call.inputs if array is not None]
    if len(bounds) != 3 or bounds[0].dtype.kind not in "iu":
        return None
    start, limit, delta = (int(bound.reshape(-1)[0]) for bound in bounds)
    if delta == 0:
        return None
    count = max(0, -((start - limit) // delta))
    if not call.fits((count,), bounds[0].itemsize):
        return None
    steps = np.arange(count, dtype=bounds[0].dtype)
    return np.asarray(steps * bounds[0].dtype.type(delta) + bounds[0].reshape(-1)[0])


def _where(call: Call) -> Array | None:
    condition, when_true, when_false = first(call), call.input(1), call.input(2)
    if when_true is None or when_false is None:
        return None
    if _broadcast(call, condition, when_true, when_false) is None:
        return None
    return np.where(condition, when_true, when_false)


def _binary(function: Callable[[Array, Array], Array]) -> Kernel:
    def kernel(call: Call) -> Array | None:
        left, right = first(call), call.input(1)
        if right is None or len(call.inputs) != 2 or left.dtype != right.dtype:
            return None
        if _broadcast(call, left, right) is None:
            return None
        return np.asarray(function(left, right))

    return kernel


def _unary(function: Callable[[Array], Array]) -> Kernel:
    return lambda call: np.asarray(function(first(call)))


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind not in "iu":
        return np.asarray(left / right)
    # ONNX divides integers towards zero; a division by zero is left to fail at run time.
    return np.asarray(left - np.fmod(left, right)) // right


def _division(call: Call) -> Array | None:
    right = call.input(1)
    if right is None or (right.dtype.kind in "iu" and not right.all()):
        return None
    return _binary(_divide)(call)


_BFLOAT16 = ir.DataType.BFLOAT16.numpy()

_KERNELS: dict[str, Kernel] = {
    **layout_kernels.KERNELS,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Where": _where,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _division,
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "Greater": _binary(np.greater),
    "LessOrEqual": _binary(np.less_equal),
    "GreaterOrEqual": _binary(np.greater_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Not": _unary(np.logical_not),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
}
