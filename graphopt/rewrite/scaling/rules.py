"""How scales pass through operators: f(x / s) = f(x) / s for positive s, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS, array, constant, scalar
from graphopt.rewrite.scaling import axes, layers
from graphopt.rewrite.scaling.lanes import Lane, varies
from graphopt.rewrite.scaling.pads import pad
from graphopt.rewrite.scaling.parts import ForkError
from graphopt.rewrite.scaling.visit import Rule, Visit, rank_of, same

if TYPE_CHECKING:
    from graphopt.rewrite.scaling.group import Scaling


def rule(node: ir.Node) -> Rule | None:
    """Return what passes scales on through a node; None where nothing does."""
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    return _RULES.get((domain, node.op_type))


def begins(node: ir.Node, scaling: Scaling) -> tuple[ir.Value, Lane, int] | None:
    """Return the value, the lane and the number of the channels that begin at a node."""
    found = layers.written(node, scaling) if rule(node) is not None else None
    if found is None:
        return None
    numbers, count = found
    return node.outputs[0], numbers, count


def _spatial(visit: Visit) -> None:
    """Pooling and resizing mix what lies behind the axis of channels, 1."""
    rank = rank_of(visit)
    if any(varies(visit.lane, from_end) for from_end in range(1, rank - 1)):
        raise visit.refuse("mixes channels")
    same(visit)


def _resize(visit: Visit) -> None:
    mode = visit.node.attributes.get("coordinate_transformation_mode")
    if mode is not None and (mode.is_ref() or mode.as_string() == "tf_crop_and_resize"):
        raise visit.refuse("fills in a constant")
    _spatial(visit)


def _joint(visit: Visit) -> None:
    """f(x / s, y / s) = f(x, y) / s: all operands have the channels, constants are scaled."""
    first = 1 if visit.node.op_type == "Where" else 0
    if visit.index is not None and visit.index < first:
        raise visit.refuse("reads it as a condition")
    visit.walk.spread(visit.node.outputs[0], visit.lane)
    for index, value in enumerate(visit.node.inputs):
        if index < first or value is None:
            continue
        if constant(value) is None:
            visit.walk.spread(value, visit.lane)
        elif not _is_zero(value):
            visit.walk.part(visit.node, index, visit.lane, -1)


def _is_zero(value: ir.Value) -> bool:
    held = array(value)
    return held is not None and held.dtype.kind in "fV" and not held.any()


def _mul(visit: Visit) -> None:
    if visit.index is not None:
        visit.walk.spread(visit.node.outputs[0], visit.lane)
        return
    for index in (1, 0):
        if _covers(visit.node.inputs[index], visit.lane):
            visit.walk.part(visit.node, index, visit.lane, -1)
            return
    _one_operand(visit)


def _div(visit: Visit) -> None:
    if visit.index == 1:
        raise visit.refuse("divides by it")
    if visit.index == 0:
        visit.walk.spread(visit.node.outputs[0], visit.lane)
    elif _covers(visit.node.inputs[1], visit.lane):
        visit.walk.part(visit.node, 1, visit.lane, 1)
    elif constant(visit.node.inputs[0]) is not None:
        visit.walk.part(visit.node, 0, visit.lane, -1)
    else:
        visit.walk.spread(visit.node.inputs[0], visit.lane)


def _one_operand(visit: Visit) -> None:
    varying = [value for value in visit.node.inputs if constant(value) is None]
    if len(varying) == 1:
        visit.walk.spread(varying[0], visit.lane)
        return
    if visit.node in visit.walk.chosen:
        visit.walk.spread(visit.node.inputs[visit.walk.chosen[visit.node]], visit.lane)
    elif sum(map(visit.walk.holds, set(varying))) != 1:
        raise ForkError(visit.node, str(visit.refuse("multiplies two activations")))


def _covers(value: ir.Value | None, numbers: Lane) -> bool:
    """Whether a constant has an element of its own for every channel."""
    tensor = constant(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return False
    shape = tuple(tensor.shape.numpy())
    if numbers.ndim > len(shape):
        return False
    aligned = shape[len(shape) - numbers.ndim :]
    return all(wanted in (1, size) for size, wanted in zip(aligned, numbers.shape, strict=True))


def _clip(visit: Visit) -> None:
    """A Clip from 0 up is a Relu; any other bound would have to be scaled with the channels."""
    low, high = _bound(visit, "min", 1), _bound(visit, "max", 2)
    if low not in (0.0, -np.inf) or high != np.inf:
        raise visit.refuse(f"has bounds {low:g} and {high:g}")
    same(visit)


def _bound(visit: Visit, name: str, index: int) -> float:
    known, given = visit.node.attributes.get(name), visit.input(index)
    found = scalar(given) if given is not None else None
    if known is not None and not known.is_ref():
        found = known.as_float()
    elif given is None:
        found = -np.inf if name == "min" else np.inf
    if found is None:
        raise visit.refuse("has computed bounds")
    # Exporters write the largest float for "no bound".
    return float(np.copysign(np.inf, found)) if abs(found) >= _LARGEST else float(found)


_LARGEST = 3.4e38


_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")

_RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op): same for op in ("Relu", "LeakyRelu", "PRelu", "Identity", "Abs", "Neg")},
    ("", "Dropout"): same,
    **{("", op): _spatial for op in _POOLS},
    **{("", op): axes.reduced for op in _REDUCTIONS},
    **{("", op): _joint for op in ("Add", "Sub", "Sum", "Max", "Min", "Mean", "Where")},
    **{("", op): axes.reshape for op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Resize"): _resize,
    ("", "Upsample"): _spatial,
    ("", "Pad"): pad,
    ("", "Transpose"): axes.transpose,
    ("", "Mul"): _mul,
    ("", "Div"): _div,
    ("", "Clip"): _clip,
    ("", "Split"): axes.split,
    ("", "Concat"): axes.concat,
    ("", "Slice"): axes.cut_out,
    ("", "Gather"): axes.gather,
    ("", "Expand"): axes.expand,
    **layers.RULES,
}

__all__ = ["Rule", "Visit", "begins", "rule"]
