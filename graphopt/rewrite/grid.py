"""The numbers that quantized tensors can hold, and the real numbers that they stand for.

Source: ONNX's QuantizeLinear and DequantizeLinear:
stored = saturate(round(x / scale) + zero_point), ties to even; x = (stored - zero_point) * scale.
Float8 rounds as a Cast does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Grid:
    """Evenly spaced numbers (or scaled float8 numbers), for a whole tensor or parts of it.

    Args:
        dtype: How they are stored: int or uint of 2 to 16 bits, or float8.
        scale: The step, positive: of shape (), or (C,) along `axis`, or with `block_size` of the
            tensor's shape with `axis` cut into blocks (the last one may be shorter).
        zero_point: What stands for 0, of the scale's shape, as plain integers; None: 0.
        axis: The axis that the scale follows; None: one scale for all.
        block_size: How many neighbours along `axis` share a scale; 0: all of an index of `axis`.
    """

    dtype: ir.DataType
    scale: Array
    zero_point: Array | None = None
    axis: int | None = None
    block_size: int = 0

    def quantize(self, real: Array) -> Array:
        """Return what stands for real numbers, in the numpy type of `dtype`."""
        scaled = real.astype(self.scale.dtype, copy=False) / self._spread(self.scale, real.shape)
        if not self.dtype.is_integer():
            low, high = limits(self.dtype)
            return np.clip(scaled, low, high).astype(self.dtype.numpy())
        stored = np.rint(scaled)
        if self.zero_point is not None:
            stored += self._spread(self.zero_point, real.shape)
        return (
            np.clip(stored, *limits(self.dtype))
            .astype(_carrier(self.dtype))
            .astype(self.dtype.numpy(), copy=False)
        )

    def dequantize(self, stored: Array) -> Array:
        """Return the real numbers, in the type of the scale."""
        real = stored.astype(self.scale.dtype)
        if self.zero_point is not None:
            real -= self._spread(self.zero_point, stored.shape).astype(self.scale.dtype)
        real *= self._spread(self.scale, stored.shape)
        return real

    def nearest(self, real: Array) -> Array:
        """Return the real numbers on the grid that are nearest to those given."""
        return self.dequantize(self.quantize(real))

    def _spread(self, parameters: Array, shape: tuple[int, ...]) -> Array:
        if self.axis is None or parameters.ndim == 0:
            return parameters.reshape(()) if parameters.size == 1 else parameters
        axis = self.axis % len(shape)
        if self.block_size:
            repeated = np.repeat(parameters, self.block_size, axis=axis)
            return np.take(repeated, range(shape[axis]), axis=axis)
        return parameters.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def limits(dtype: ir.DataType, *, narrow: bool = False) -> tuple[float, float]:
    """Return the smallest and the largest number that a type holds.

    Args:
        dtype: An integer or a float8 type.
        narrow: Leave out the smallest signed integer, so that the range is symmetric.
    """
    if not dtype.is_integer():
        largest = float(_finfo(dtype.numpy()).max)
        return -largest, largest
    bits = dtype.bitwidth
    if dtype.is_signed():
        return float(-(1 << (bits - 1)) + int(narrow)), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1)


def grid_for(
    low: Array | float,
    high: Array | float,
    dtype: ir.DataType,
    *,
    symmetric: bool,
    narrow: bool = False,
    axis: int | None = None,
    block_size: int = 0,
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
) -> Grid:
    """Return the grid that covers a range, and has 0 on it.

    Args:
        low: The smallest number to cover, of shape (), (C,) or of blocks, as `Grid.scale`.
        high: The largest one.
        dtype: How numbers are stored.
        symmetric: Whether 0 is stored as the middle of the type: 0 where it is signed, 2^(bits-1)
            where not.
        narrow: See `limits`; for symmetric signed weights.
        axis: See `Grid`.
        block_size: See `Grid`.
        scale_dtype: The type of the scale, that of the tensor.

    Raises:
        ValueError: The range is not finite, or reversed.
    """
    bottom = np.minimum(np.asarray(low, np.float64), 0.0)
    top = np.maximum(np.asarray(high, np.float64), 0.0)
    if (
        not (np.isfinite(bottom).all() and np.isfinite(top).all())
        or (np.asarray(low) > np.asarray(high)).any()
    ):
        raise ValueError("the range of a grid is finite, its low end below its high end")
    least, largest = limits(dtype, narrow=narrow)
    real = np.dtype(scale_dtype.numpy())
    if symmetric or not dtype.is_integer():
        middle = 0 if dtype.is_signed() or not dtype.is_integer() else 1 << (dtype.bitwidth - 1)
        reach = np.maximum(-bottom, top)
        scale = _usable(reach / (largest - middle), real)
        return Grid(dtype, scale, _filled(scale, middle), axis, block_size)
    scale = _usable((top - bottom) / (largest - least), real)
    zero = np.clip(np.rint(least - bottom / scale.astype(np.float64)), least, largest)
    return Grid(dtype, scale, zero.astype(np.int32), axis, block_size)


def _filled(scale: Array, zero_point: int) -> Array | None:
    return np.full(scale.shape, zero_point, np.int32) if zero_point else None


def _usable(scale: Array, dtype: np.dtype[Any]) -> Array:
    """A range of nothing but zeros gets the step 1; a step too small for its type its smallest."""
    tiny = float(_finfo(dtype).smallest_normal)
    return np.where(scale == 0, 1.0, np.maximum(scale, tiny)).astype(dtype)


def _carrier(dtype: ir.DataType) -> np.dtype[Any]:
    """A type of numpy's own that ml_dtypes' narrow integers are made from without loss."""
    return np.dtype(np.int32 if dtype.bitwidth > 8 else np.int16)


def _finfo(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call] # it carries no annotations
