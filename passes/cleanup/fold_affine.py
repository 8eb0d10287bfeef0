"""BatchNormalization and constant Mul, Div, Add, Sub, folded into the linear operators beside them.

Behind a linear node, `s * (W x + b) + t = (s W) x + (s b + t)`; in front of one,
`W (s x + t) + b = (W s) x + (b + W t)`, where `t` is only possible without padding. Outputs stay
equal up to the rounding of the folded weights, which are computed in double precision and rounded
once. Nothing is folded where a weight overflows or gets subnormal, is quantized or comes from
outside, or where the file would grow because others read the same weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite import uses
from graphopt.rewrite.constants import constant, is_op, nbytes, opset
from graphopt.rewrite.shapes import Shapes
from passes.cleanup.affine import FLOATS, Affine, NotAffineError, Wide, affine
from passes.cleanup.folded import Place, is_owned, put, rounded, scaled
from passes.cleanup.linear import Linear, linear
from passes.cleanup.sites import Site, optional_input


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per affine node that the weights of a neighbour take in."""
    for scope in scopes(model):
        site = Site(Shapes.of(model), opset(model, scope.function))
        place = Place(model, in_function=scope.function is not None)
        for node in scope.graph:
            for fold in (_fold_behind, _fold_before):
                yield from _fold_all(scope, node, site, place, fold)


class _RefusedError(Exception):
    """Why an affine node that could be folded by its operator is not."""


@dataclass(frozen=True)
class _Edit:
    """New constants for a linear node, and the affine node that they make superfluous."""

    found: Linear
    gone: Affine
    is_behind: bool
    weight: ir.TensorProtocol | None = None
    bias: ir.TensorProtocol | None = None

    @property
    def grown_bytes(self) -> int:
        """What the file takes more afterwards."""
        added = 0
        if self.weight is not None:
            added += _growth(self.found.node, self.found.weight_index, self.weight)
        if self.bias is not None and self.found.bias is not None:
            added += _growth(*self.found.bias, self.bias)
        return added - self.gone.freed_bytes

    def apply(self, place: Place) -> None:
        """Put the constants in, and take the affine node out."""
        node = self.found.node
        name = node.name or node.outputs[0].name
        if self.weight is not None:
            put(node, self.found.weight_index, self.weight, f"{name}_weight", place)
        if self.bias is not None and self.found.bias is not None:
            put(*self.found.bias, self.bias, self.gone.shift_name or f"{name}_bias", place)
            if self.found.bias_factor != 1.0:
                node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        if self.is_behind:
            uses.replace(self.gone.node.outputs[0], self.found.tail.outputs[0])
        else:
            node.replace_input_with(self.found.data_index, self.gone.data)
        uses.remove(self.gone.node)


_Fold = Callable[[Linear, Site], tuple[ir.Node, Callable[[], _Edit | None]] | None]
"""Finds the neighbour of a linear node, and how to fold it."""


def _fold_all(
    scope: Scope, node: ir.Node, site: Site, place: Place, fold: _Fold
) -> Iterator[Rewrite | Declined]:
    """Fold one neighbour after the other, as far as they are affine."""
    while node.graph is not None:
        found = linear(node, site)
        neighbour = None if found is None else fold(found, site)
        if neighbour is None:
            return
        other, plan = neighbour
        at = scope.at(other.name or other.outputs[0].name)
        try:
            edit = plan()
        except (_RefusedError, NotAffineError) as refusal:
            yield Declined(at, f"{other.op_type} beside {_label(node)} stays: {refusal}")
            return
        if edit is None:
            return
        why = f"{other.op_type} folded into {_label(node)}"
        yield Rewrite(at, why, partial(edit.apply, place))
        if other.graph is not None:
            return  # offered, and not applied


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name}"


def _fold_behind(found: Linear, site: Site) -> tuple[ir.Node, Callable[[], _Edit | None]] | None:
    source = found.tail.outputs[0]
    user = uses.only_user(source)
    if user is None or user.graph is not found.tail.graph or len(user.outputs) == 0:
        return None
    if not uses.can_replace(user.outputs[0], source):
        return None
    return user, lambda: _plan_behind(found, user, site)


def _plan_behind(found: Linear, user: ir.Node, site: Site) -> _Edit | None:
    gone = affine(user, site)
    if gone is None:
        return None
    scale, shift = found.out.vector(gone, gone.scale), found.out.vector(gone, gone.shift)
    if _is_lost(gone, scale, shift) or (shift is not None and found.bias is None):
        return None
    factor = None if scale is None else found.out_factor(scale)
    return _filled(_Edit(found, gone, is_behind=True), factor, (scale, shift), site)


def _fold_before(found: Linear, site: Site) -> tuple[ir.Node, Callable[[], _Edit | None]] | None:
    data = found.node.inputs[found.data_index]
    producer = None if data is None else data.producer()
    if found.into is None or data is None or producer is None:
        return None
    if uses.only_user(data) is not found.node or producer.graph is not found.node.graph:
        return None
    return producer, lambda: _plan_before(found, producer, site)


def _plan_before(found: Linear, producer: ir.Node, site: Site) -> _Edit | None:
    gone = affine(producer, site)
    if gone is None or found.into is None or not _keeps_shape(gone, site):
        return None
    scale, shift = found.into.vector(gone, gone.scale), found.into.vector(gone, gone.shift)
    if _is_lost(gone, scale, shift):
        return None
    passed = None if shift is None or not shift.any() else _passed(found, shift)
    factor = None if scale is None else found.in_factor(scale)
    return _filled(_Edit(found, gone, is_behind=False), factor, (None, passed), site)


def _is_lost(gone: Affine, scale: Wide | None, shift: Wide | None) -> bool:
    """Whether a constant of an affine node is not one number per channel."""
    return (gone.scale is not None and scale is None) or (gone.shift is not None and shift is None)


def _keeps_shape(gone: Affine, site: Site) -> bool:
    """Whether the constant of an affine node does not enlarge its data."""
    if gone.axis is not None:
        return True
    return all(values is None or values.ndim == 0 for values in (gone.scale, gone.shift)) or (
        site.shapes.same_shape(gone.data, gone.node.outputs[0])
        or _broadcasts_into(gone, site.shapes.shape(gone.data))
    )


def _broadcasts_into(gone: Affine, shape: tuple[int | str | None, ...] | None) -> bool:
    """Whether constants are 1 along every axis, or known to be as large as the data."""
    if shape is None:
        return False
    for values in (gone.scale, gone.shift):
        if values is None:
            continue
        if values.ndim > len(shape):
            return False
        aligned = shape[len(shape) - values.ndim :]
        if any(size not in (1, goal) for size, goal in zip(values.shape, aligned, strict=True)):
            return False
    return True


def _passed(found: Linear, shift: Wide) -> Wide:
    tensor = constant(found.node.inputs[found.weight_index])
    if tensor is None or tensor.dtype not in FLOATS:
        raise _RefusedError("the weight is not constant")
    passed = found.passed(shift, np.asarray(tensor.numpy(), np.float64))
    if passed is None:
        raise _RefusedError("its shift reaches the output unevenly, because of padding")
    if found.bias is None:
        raise _RefusedError("there is no bias for its shift")
    return passed


def _filled(
    edit: _Edit, factor: Wide | None, change: tuple[Wide | None, Wide | None], site: Site
) -> _Edit:
    """Compute the new constants.

    Args:
        edit: What to fold.
        factor: What the weight is multiplied with.
        change: What the bias is multiplied with, and what is added to it then.
        site: Where the node stands.
    """
    value = edit.found.node.inputs[edit.found.weight_index]
    if value is not None and is_op(value.producer(), "DequantizeLinear"):
        raise _RefusedError("the weight is quantized")
    weight = None if factor is None else _new_weight(value, factor)
    dtype = site.shapes.dtype(value) or ir.DataType.UNDEFINED
    edit = replace(edit, weight=weight, bias=_new_bias(edit.found, dtype, *change))
    if edit.grown_bytes > 0:
        raise _RefusedError(f"the file would grow by {edit.grown_bytes} bytes")
    return edit


def _new_weight(value: ir.Value | None, factor: Wide) -> ir.TensorProtocol:
    tensor = constant(value)
    if tensor is None or value is None:
        raise _RefusedError("the weight is not constant")
    if tensor.dtype not in FLOATS:
        raise _RefusedError(f"the weight is of type {tensor.dtype.name}")
    weight = scaled(tensor, factor, value.name)
    if weight is None:
        raise _RefusedError(f"the weight would leave the range of {tensor.dtype.name}")
    return weight


def _new_bias(
    found: Linear, dtype: ir.DataType, scale: Wide | None, shift: Wide | None
) -> ir.TensorProtocol | None:
    """Return the new bias; None where it does not change."""
    old = None if found.bias is None else optional_input(*found.bias)
    is_shifted = shift is not None and bool(shift.any())
    if found.bias is None or not (is_shifted or (old is not None and scale is not None)):
        return None
    values = np.zeros(()) if old is None else _old_bias(found, old)
    if dtype not in FLOATS:
        raise _RefusedError("the element type is not known")
    values = np.broadcast_to(values * found.bias_factor, (found.out.channels,))
    values = values if scale is None else values * scale
    values = values if shift is None else values + shift
    bias = rounded(values, dtype, None if old is None else old.name)
    if bias is None:
        raise _RefusedError(f"the bias would leave the range of {dtype.name}")
    return bias


def _old_bias(found: Linear, value: ir.Value) -> Wide:
    tensor = constant(value)
    if tensor is None:
        raise _RefusedError("the bias is not constant")
    values = np.asarray(tensor.numpy(), np.float64)
    # Channels are the last axis of a Gemm's C and of an Add, the only one everywhere else.
    if values.size != 1 and not values.shape[-1] == values.size == found.out.channels:
        raise _RefusedError("the bias is not one number per channel")
    return values.reshape(-1)


def _growth(node: ir.Node, index: int, tensor: ir.TensorProtocol) -> int:
    old = optional_input(node, index)
    known = constant(old)
    replaced = nbytes(known) if old is not None and known is not None and is_owned(old) else 0
    return nbytes(tensor) - replaced
