"""What a constant is behind nodes that only pass its numbers on, in other axes or another type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from graphopt.rewrite import written_out
from graphopt.rewrite.constants import ONNX_DOMAINS, integers
from graphopt.rewrite.passed import Passed, Quantization

__all__ = ["Passed", "Quantization", "passed_on"]

_DOMAINS = (*ONNX_DOMAINS, "com.microsoft")


def passed_on(node: ir.Node, index: int, passed: Passed) -> Passed | str | None:
    """Follow a constant through one node.

    Returns:
        What it is behind the node; a string, where it cannot be followed further, that says what
        stands there; None where the node does something else with it.
    """
    if node.domain not in _DOMAINS:
        return None
    if passed.unscaled and node.op_type in written_out.OPERATORS:
        return written_out.followed(node, index, passed)
    rule = _RULES.get(node.op_type) if index == 0 else None
    return None if rule is None else rule(node, passed)


_Rule = Callable[[ir.Node, Passed], Passed | str]


def _same(_: ir.Node, passed: Passed) -> Passed:
    return passed


def _cast(node: ir.Node, passed: Passed) -> Passed | str:
    to = ir.DataType(node.attributes.get_int("to", 1) or 1)
    if not to.is_floating_point():
        return f"a Cast to {to.name}"
    bare = passed.stored_integers and passed.quantization is None and not passed.integers
    return replace(passed, unscaled=True) if bare else passed


def _transpose(node: ir.Node, passed: Passed) -> Passed | str:
    rank = len(passed.axes)
    order = tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))) or ())
    if sorted(order) != list(range(rank)):
        return "a Transpose of another rank"
    return replace(
        passed,
        sizes=tuple(passed.sizes[axis] for axis in order),
        axes=tuple(passed.axes[axis] for axis in order),
    )


def _reshape(node: ir.Node, passed: Passed) -> Passed | str:
    target = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if target is None:
        return "a Reshape"
    if not node.attributes.get_int("allowzero", 0):
        known = (*passed.sizes, *([0] * len(target)))
        target = tuple(known[axis] if size == 0 else size for axis, size in enumerate(target))
    rest = math.prod(size for size in target if size != -1)
    total = math.prod(passed.sizes)
    return _regrouped(passed, [total // max(rest, 1) if s == -1 else s for s in target], node)


def _flatten(node: ir.Node, passed: Passed) -> Passed | str:
    axis = node.attributes.get_int("axis", 1)
    axis = 1 if axis is None else axis
    before, behind = passed.sizes[:axis], passed.sizes[axis:]
    return _regrouped(passed, [math.prod(before), math.prod(behind)], node)


def _squeeze(node: ir.Node, passed: Passed) -> Passed | str:
    rank = len(passed.sizes)
    named = _axes_of(node)
    gone = [a for a, s in enumerate(passed.sizes) if s == 1] if named is None else named
    away = {axis % rank if rank else axis for axis in gone}
    return _regrouped(passed, [s for a, s in enumerate(passed.sizes) if a not in away], node)


def _unsqueeze(node: ir.Node, passed: Passed) -> Passed | str:
    named = _axes_of(node)
    if named is None:
        return "an Unsqueeze"
    rank = len(passed.sizes) + len(named)
    inserted = {axis % rank for axis in named}
    old = iter(passed.sizes)
    return _regrouped(passed, [1 if a in inserted else next(old, 1) for a in range(rank)], node)


def _axes_of(node: ir.Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return integers(node.inputs[1])
    named = node.attributes.get_ints("axes", None)
    return None if named is None else tuple(named)


def _regrouped(passed: Passed, sizes: Sequence[int], node: ir.Node) -> Passed:
    """Match axes of two shapes that differ in ones only."""
    kept = [(size, axis) for size, axis in zip(passed.sizes, passed.axes, strict=True) if size != 1]
    if [size for size in sizes if size != 1] != [size for size, _ in kept]:
        why = f"read through a {node.op_type} that mixes its axes"
        return Passed(tuple(sizes), (None,) * len(sizes), opaque=why)
    stored = (axis for _, axis in kept)
    axes = tuple(None if size == 1 else next(stored) for size in sizes)
    return replace(passed, sizes=tuple(sizes), axes=axes)


def _quantize(_: ir.Node, passed: Passed) -> Passed | str:
    if passed.integers or passed.quantization is not None:
        return "a QuantizeLinear"
    return replace(passed, integers=True)


def _dequantize(node: ir.Node, passed: Passed) -> Passed | str:
    if passed.integers:
        return replace(passed, integers=False)
    if passed.quantization is not None:
        return replace(passed, opaque="dequantized twice")
    block_size = node.attributes.get_int("block_size", 0) or 0
    if block_size and not passed.is_in_order:
        return replace(passed, opaque="quantized in blocks of transposed axes")
    axis = node.attributes.get_int("axis", 1)
    axis = 1 if axis is None else axis
    in_range = -len(passed.axes) <= axis < len(passed.axes)
    stored = passed.axes[axis] if in_range else None
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    quantization = passed.dequantized(node.inputs[1], zero_point, stored, block_size)
    if quantization is None:
        return replace(passed, opaque="quantized with a scale that is computed")
    if quantization.scale.size != 1 and stored is None:
        return replace(passed, opaque="quantized along an axis that it does not have")
    return replace(passed, quantization=quantization)


_RULES: dict[str, _Rule] = {
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _same,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
