"""What a constant is behind nodes that only pass its numbers on, in other axes or another type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS, constant, integers
from graphopt.rewrite.layers import Axes

_DOMAINS = (*ONNX_DOMAINS, "com.microsoft")


@dataclass(frozen=True)
class Quantization:
    """How integers stand for real numbers: real = (stored - zero_point) * scale.

    Args:
        scale: One positive number, or one per index of `axis`.
        zero_point: Of the stored type and the shape of the scale; None: zero.
        axis: The axis of the stored tensor that the scale follows; None: one scale for all.
    """

    scale: ir.TensorProtocol
    zero_point: ir.TensorProtocol | None
    axis: int | None


@dataclass(frozen=True)
class Passed:
    """A constant as it is read behind some nodes.

    Args:
        sizes: The shape in which it is read.
        axes: For each axis of that shape the axis of the stored tensor; None: an inserted one.
        quantization: How it was dequantized on the way.
        integers: Whether real numbers were quantized on the way and not dequantized again.
        opaque: Why the layer behind does not see the stored numbers, where it does not.
    """

    sizes: tuple[int, ...]
    axes: tuple[int | None, ...]
    quantization: Quantization | None = None
    integers: bool = False
    opaque: str | None = None

    @classmethod
    def root(cls, tensor: ir.TensorProtocol) -> Passed:
        """Return a tensor as it is stored."""
        sizes = tuple(int(size) for size in tensor.shape.numpy())
        return cls(sizes, tuple(range(len(sizes))))

    def stored(self, axes: Axes) -> Axes | None:
        """Translate axes that a layer names into those of the stored tensor.

        Returns:
            None where a layer sums in groups over an axis that the stored tensor does not have.
        """
        inner = None if axes.input is None else self.axes[axes.input]
        if axes.groups > 1 and inner is None:
            return None
        output = None if axes.output is None else self.axes[axes.output]
        reduction = tuple(axis for a in axes.reduction if (axis := self.axes[a]) is not None)
        return Axes(output, reduction, inner, axes.groups)

    def dequantized(
        self, scale: ir.Value | None, zero_point: ir.Value | None, axis: int | None
    ) -> Quantization | None:
        """Return how it is dequantized along an axis of the stored tensor.

        Returns:
            None where scale or zero point are not constant.
        """
        scales, zeros = constant(scale), constant(zero_point)
        if scales is None or (zeros is None and zero_point is not None):
            return None
        return Quantization(scales, zeros, None if scales.size == 1 else axis)


def passed_on(node: ir.Node, index: int, passed: Passed) -> Passed | str | None:
    """Follow a constant through one node.

    Returns:
        What it is behind the node; a string, where it cannot be followed further, that says what
        stands there; None where the node does something else with it.
    """
    rule = _RULES.get(node.op_type) if index == 0 and node.domain in _DOMAINS else None
    return None if rule is None else rule(node, passed)


_Rule = Callable[[ir.Node, Passed], Passed | str]


def _same(_: ir.Node, passed: Passed) -> Passed:
    return passed


def _cast(node: ir.Node, passed: Passed) -> Passed | str:
    to = ir.DataType(node.attributes.get_int("to", 1) or 1)
    return passed if to.is_floating_point() else f"a Cast to {to.name}"


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
    if node.attributes.get_int("block_size", 0):
        return replace(passed, opaque="quantized in blocks")
    axis = node.attributes.get_int("axis", 1)
    axis = 1 if axis is None else axis
    in_range = -len(passed.axes) <= axis < len(passed.axes)
    stored = passed.axes[axis] if in_range else None
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    quantization = passed.dequantized(node.inputs[1], zero_point, stored)
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
