"""What is known of a constant behind nodes that only pass its numbers on."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import constant
from graphopt.rewrite.layers import Axes


@dataclass(frozen=True)
class Quantization:
    """How integers stand for real numbers: real = (stored - zero_point) * scale.

    Args:
        scale: One positive number, or one per index of `axis`, or with `block_size` one per index
            of the stored tensor with `axis` cut into blocks. Axes of size 1 may be inserted.
        zero_point: Of the shape of the scale; None: zero.
        axis: The axis of the stored tensor that the scale follows; None: one scale for all.
        block_size: How many neighbours along `axis` share a scale; 0: all of an index of `axis`.
    """

    scale: ir.TensorProtocol
    zero_point: ir.TensorProtocol | None
    axis: int | None
    block_size: int = 0


@dataclass(frozen=True)
class Passed:
    """A constant as it is read behind some nodes.

    Args:
        sizes: The shape in which it is read.
        axes: For each axis of that shape the axis of the stored tensor; None: an inserted one.
        quantization: How it was dequantized on the way.
        integers: Whether real numbers were quantized on the way and not dequantized again.
        stored_integers: Whether integers are stored.
        unscaled: Whether stored integers were cast to floats and not scaled yet.
        shift: The zero point that was subtracted from such integers, and how it lies.
        opaque: Why the layer behind does not see the stored numbers, where it does not.
    """

    sizes: tuple[int, ...]
    axes: tuple[int | None, ...]
    quantization: Quantization | None = None
    integers: bool = False
    stored_integers: bool = False
    unscaled: bool = False
    shift: Quantization | None = None
    opaque: str | None = None

    @classmethod
    def root(cls, tensor: ir.TensorProtocol) -> Passed:
        """Return a tensor as it is stored."""
        sizes = tuple(int(size) for size in tensor.shape.numpy())
        return cls(sizes, tuple(range(len(sizes))), stored_integers=tensor.dtype.is_integer())

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

    @property
    def is_in_order(self) -> bool:
        """Whether it is read with its axes in the order in which they are stored."""
        axes = [axis for axis in self.axes if axis is not None]
        return axes == sorted(axes)

    def dequantized(
        self,
        scale: ir.Value | None,
        zero_point: ir.Value | None,
        axis: int | None,
        block_size: int = 0,
    ) -> Quantization | None:
        """Return how it is dequantized along an axis of the stored tensor.

        Returns:
            None where scale or zero point are not constant.
        """
        scales, zeros = constant(scale), constant(zero_point)
        if scales is None or (zeros is None and zero_point is not None):
            return None
        if scales.size == 1:
            return Quantization(scales, zeros, None)
        return Quantization(scales, zeros, axis, block_size)
