"""Chains of element-wise operators, made shorter: activations, casts, constant operands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import constant, nbytes, scalar
from passes.cleanup import merges
from passes.cleanup.affine import FLOATS, Wide, affine
from passes.cleanup.folded import rounded
from passes.cleanup.merges import Merge, Merged, Operand, Same
from passes.cleanup.sites import Site, int_setting, optional_input

_IDEMPOTENT = ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
_SELF_INVERSE = ("Neg", "Not")
_NEVER_NEGATIVE = (
    "Abs",
    "Exp",
    "HardSigmoid",
    "ReduceL2",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Sqrt",
)


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per pair of neighbours that one operator can replace."""
    yield from merges.rewrites(model, _MERGES)


def _again(inner: ir.Node, outer: ir.Node, site: Site) -> Same:
    """An operator that changes nothing the second time."""
    del outer, site
    return Same(inner.outputs[0])


def _back(inner: ir.Node, outer: ir.Node, site: Site) -> Same | None:
    """An operator that undoes itself."""
    del outer, site
    data = inner.inputs[0]
    return None if data is None else Same(data)


@dataclass(frozen=True)
class _Range:
    """Bounds of a Clip or a Relu; None where there is none."""

    low: float | None
    high: float | None
    dtype: ir.DataType | None

    def then(self, other: _Range) -> _Range:
        """Return the bounds of clipping to these, and to others behind that."""
        bounds = [other.clip(bound) for bound in (self.low, self.high)]
        low = bounds[0] if bounds[0] is not None else other.low
        high = bounds[1] if bounds[1] is not None else other.high
        return _Range(low, high, self.dtype or other.dtype)

    def clip(self, number: float | None) -> float | None:
        """Clip a number to the bounds."""
        if number is None:
            return None
        number = number if self.low is None else max(number, self.low)
        return number if self.high is None else min(number, self.high)


def _clips(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    first, second, data = _range(inner, site), _range(outer, site), inner.inputs[0]
    if data is None or first is None or second is None:
        return None
    both = first.then(second)
    if (both.low, both.high) == (0, None) and "Relu" in (inner.op_type, outer.op_type):
        return Merged("Relu", [data])
    if site.opset < 11:
        bounds = (("min", both.low), ("max", both.high))
        return Merged(
            "Clip", [data], [ir.AttrFloat32(name, b) for name, b in bounds if b is not None]
        )
    dtype = both.dtype or site.shapes.dtype(data)
    if dtype is None:
        return None
    inputs: list[Operand] = [data, _bound(both.low, dtype)]
    return Merged("Clip", inputs if both.high is None else [*inputs, _bound(both.high, dtype)])


def _bound(number: float | None, dtype: ir.DataType) -> ir.TensorProtocol | None:
    return None if number is None else ir.Tensor(np.array(number, dtype.numpy()), dtype=dtype)


def _range(node: ir.Node, site: Site) -> _Range | None:
    """Return constant bounds in their order; None for anything else."""
    if node.op_type == "Relu":
        return _Range(0, None, None)
    if site.opset < 6:
        return None
    limits = [_limit(node, name, index, site) for index, name in ((1, "min"), (2, "max"))]
    if any(limit is not None and math.isnan(limit) for limit in limits):
        return None
    low, high = limits
    if low is not None and high is not None and not low <= high:
        return None
    tensor = constant(optional_input(node, 1)) or constant(optional_input(node, 2))
    return _Range(low, high, None if tensor is None else tensor.dtype)


def _limit(node: ir.Node, name: str, index: int, site: Site) -> float | None:
    """Return a bound, None where there is none, NaN where it is not known."""
    if site.opset < 11:
        known = node.attributes.get(name)
        if known is None:
            return None
        return math.nan if known.is_ref() else known.as_float()
    value = optional_input(node, index)
    if value is None:
        return None
    number = scalar(value)
    return math.nan if number is None else number


def _casts(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | Same | None:
    """A cast that loses nothing, and another one behind it."""
    data = inner.inputs[0]
    if site.opset < 6:
        return None  # types were spelled out in those days
    source = site.shapes.dtype(data)
    between, target = (int_setting(node, "to", 0) for node in (inner, outer))
    if data is None or source is None or not between or not target:
        return None
    if not _is_lossless(source, ir.DataType(between)):
        return None
    if source == target:
        return Same(data)
    if ir.DataType(target) not in _DIGITS and ir.DataType(target) != ir.DataType.BOOL:
        return None
    return Merged("Cast", [data], list(outer.attributes.values()))


_DIGITS = {
    ir.DataType.BOOL: (1, 0),
    ir.DataType.UINT8: (8, 0),
    ir.DataType.UINT16: (16, 0),
    ir.DataType.UINT32: (32, 0),
    ir.DataType.UINT64: (64, 0),
    ir.DataType.INT8: (7, 1),
    ir.DataType.INT16: (15, 1),
    ir.DataType.INT32: (31, 1),
    ir.DataType.INT64: (63, 1),
    ir.DataType.BFLOAT16: (8, 2),
    ir.DataType.FLOAT16: (11, 2),
    ir.DataType.FLOAT: (24, 3),
    ir.DataType.DOUBLE: (53, 4),
}
"""Binary digits that a type holds exactly, and the kind of its range: each includes the ones below
it, except that 2 stands for two floating-point types of which neither includes the other."""


def _is_lossless(source: ir.DataType, target: ir.DataType) -> bool:
    if source == target:
        return True
    if source not in _DIGITS or target not in _DIGITS:
        return False
    (digits, kind), (room, wider) = _DIGITS[source], _DIGITS[target]
    if kind == wider == 2:
        return False
    return digits <= room and kind <= wider


def _products(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    first, second = affine(inner, site), affine(outer, site)
    if first is None or second is None or second.data is not inner.outputs[0]:
        return None
    if first.shift is not None or second.shift is not None:
        return None
    if first.scale is None or second.scale is None:
        return None
    product = first.scale * second.scale
    return _with_constant("Mul", first.data, product, inner, outer)


def _sums(inner: ir.Node, outer: ir.Node, site: Site) -> Merged | None:
    first, second = affine(inner, site), affine(outer, site)
    if first is None or second is None or second.data is not inner.outputs[0]:
        return None
    if first.scale is not None or second.scale is not None:
        return None
    if first.shift is None or second.shift is None:
        return None
    total = first.shift + second.shift
    # Adding and subtracting a large number is how some models round: that is not to be undone.
    if not (2 * np.abs(total) >= np.maximum(np.abs(first.shift), np.abs(second.shift))).all():
        return None
    return _with_constant("Add", first.data, total, inner, outer)


def _with_constant(
    op_type: str, data: ir.Value, values: Wide, inner: ir.Node, outer: ir.Node
) -> Merged | None:
    """Make one operand of two, unless it leaves its type's range or takes more room."""
    tensors = [
        (value, tensor)
        for node in (inner, outer)
        for value in node.inputs
        if value is not None and (tensor := constant(value)) is not None
    ]
    dtype = tensors[0][1].dtype
    freed = sum(nbytes(tensor) for value, tensor in tensors if len(value.uses()) == 1)
    if dtype not in FLOATS or values.size * dtype.itemsize > max(freed, dtype.itemsize):
        return None
    tensor = rounded(values, dtype, None)
    if tensor is None or np.any((values != 0) & (np.abs(values) < _LEAST_NORMAL[dtype])):
        return None
    return Merged(op_type, [data, tensor])


_LEAST_NORMAL = {
    ir.DataType.FLOAT16: 2.0**-14,
    ir.DataType.BFLOAT16: 2.0**-126,
    ir.DataType.FLOAT: 2.0**-126,
    ir.DataType.DOUBLE: 2.0**-1022,
}

_MERGES: dict[tuple[str, str], Merge] = {
    **{(op_type, op_type): _again for op_type in _IDEMPOTENT},
    **{(op_type, op_type): _back for op_type in _SELF_INVERSE},
    **{(op_type, "Relu"): _again for op_type in _NEVER_NEGATIVE},
    ("Relu", "Abs"): _again,
    ("Clip", "Clip"): _clips,
    ("Clip", "Relu"): _clips,
    ("Relu", "Clip"): _clips,
    ("Cast", "Cast"): _casts,
    **{(first, second): _products for first in ("Mul", "Div") for second in ("Mul", "Div")},
    **{(first, second): _sums for first in ("Add", "Sub") for second in ("Add", "Sub")},
}
