"""Second moments of what a layer multiplies its weights with: X^T X, streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from graphopt.calibration.channels import position
from graphopt.calibration.sentinels import real_dtype, without_sentinels
from graphopt.calibration.statistics import Array, NotANumberError
from graphopt.calibration.sums import Sums

_BLOCK = 16 << 20
"""Bytes of rows that are laid out at once."""


@dataclass(frozen=True)
class Rows:
    """Which axis of an input holds what is summed over: that of MatMul and Gemm.

    Args:
        axis: The axis, negative where it counts from the end.
    """

    axis: int = -1

    @property
    def groups(self) -> int:
        """There is one."""
        return 1

    def features(self, shape: tuple[int, ...]) -> int:
        """The length of a row."""
        return shape[position(self.axis, shape)]

    def blocks(self, batch: Array) -> Iterator[Array]:
        """Yield rows, as (1, rows, features)."""
        rows = np.moveaxis(batch, self.axis, -1).reshape(-1, batch.shape[self.axis])
        step = max(1, _BLOCK // max(1, rows.shape[1] * rows.itemsize))
        for start in range(0, rows.shape[0], step):
            yield rows[None, start : start + step]


@dataclass(frozen=True)
class Patches:
    """What each place of a convolution's output is computed from, laid out as its weights are.

    Source: ONNX's Conv. A row is (C / group, *kernel), flattened.

    Args:
        kernel: Sizes of the kernel.
        strides: Steps between places.
        dilations: Steps between elements of the kernel.
        pads: Zeros in front of each axis, then behind each.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        groups: Into how many equal runs channels are cut.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1

    def features(self, shape: tuple[int, ...]) -> int:
        """The length of a row."""
        if len(shape) != len(self.kernel) + 2 or shape[1] % self.groups:
            raise ValueError(f"shape {shape} is no input of this convolution")
        return shape[1] // self.groups * math.prod(self.kernel)

    def blocks(self, batch: Array) -> Iterator[Array]:
        """Yield rows, as (groups, rows, features), of a few samples at a time."""
        spatial = batch.shape[2:]
        pads = self._padding(spatial)
        spans = [
            step * (size - 1) + 1 for step, size in zip(self.dilations, self.kernel, strict=True)
        ]
        places = math.prod(
            max(0, (size + sum(pad) - span) // stride + 1)
            for size, pad, span, stride in zip(spatial, pads, spans, self.strides, strict=True)
        )
        if not places or not batch.size:
            return
        row = batch.shape[1] * math.prod(self.kernel) * batch.itemsize
        step = max(1, _BLOCK // (row * places))
        for start in range(0, batch.shape[0], step):
            padded = np.pad(batch[start : start + step], [(0, 0), (0, 0), *pads])
            yield from self._laid_out(padded, spans, row)

    def _laid_out(self, padded: Array, spans: list[int], row: int) -> Iterator[Array]:
        axes = tuple(range(2, padded.ndim))
        views = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
        steps = (1, 1, *self.strides, *self.dilations)
        views = views[tuple(slice(None, None, step) for step in steps)]
        # (N, C, *places, *kernel): a large sample is laid out by runs of its first spatial axis.
        n, channels, first, *others = views.shape[: padded.ndim]
        step = max(1, _BLOCK // max(1, row * n * math.prod(others)))
        dims = len(self.kernel)
        for start in range(0, first, step):
            part = views[:, :, start : start + step]
            part = part.reshape(n, self.groups, channels // self.groups, *part.shape[2:])
            order = (1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))
            yield part.transpose(order).reshape(
                self.groups, -1, channels // self.groups * math.prod(self.kernel)
            )

    def _padding(self, spatial: tuple[int, ...]) -> list[tuple[int, int]]:
        dims = len(self.kernel)
        if self.auto_pad == "VALID":
            return [(0, 0)] * dims
        if self.auto_pad == "NOTSET":
            return list(zip(self.pads[:dims], self.pads[dims:], strict=True))
        pads = []
        for axis, size in enumerate(spatial):
            span = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            places = -(-size // self.strides[axis])
            total = max(0, (places - 1) * self.strides[axis] + span - size)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return pads


class SecondMoments(Sums):
    """The sums of x_i x_j over all rows x that a layer multiplies its weights with.

    Products of float32 inputs are summed in float32 within blocks of a few megabytes, and over
    blocks in float64: splits and merges agree up to that rounding. Sentinels count as zero.

    Args:
        rows: How rows are read from the input.
        most: The most features of a row, None: any number; the sums take
            8 * groups * features^2 bytes.

    Attributes:
        sums: X^T X, of shape (groups, features, features).
        count: How many rows were seen.
        masked: How many sentinels were seen.
    """

    summed: ClassVar[str] = "features"

    def __init__(self, rows: Rows | Patches, most: int | None = 4096) -> None:
        super().__init__()
        self.rows, self.most = rows, most

    def __repr__(self) -> str:
        return f"SecondMoments({self.rows}, {self.most})"

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            NotANumberError: It holds NaN, or products that overflow cancel to it.
            ValueError: Its shape does not go with the layer, or a row has too many features.
        """
        features = self.rows.features(batch.shape)
        if self.most is not None and features * math.sqrt(self.rows.groups) > self.most:
            raise ValueError(
                f"second moments of {features:,} features in {self.rows.groups} groups"
                f" exceed the limit of {self.most:,} features"
            )
        kept, masked = without_sentinels(batch)
        real = kept.astype(real_dtype(batch.dtype), copy=False)
        sums, count = np.zeros((self.rows.groups, features, features)), 0
        for block in self.rows.blocks(real):
            sums += block.transpose(0, 2, 1) @ block
            count += block.shape[1]
        # Products of float32 overflow to infinities, and those of both signs cancel to NaN.
        if np.isnan(sums).any():
            raise NotANumberError("holds NaN")
        self._add(sums, count, masked)

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It reads rows differently, or of another length.
        """
        if other.rows != self.rows:
            raise ValueError(f"{other.rows} does not merge into {self.rows}")
        self._add_all(other)
