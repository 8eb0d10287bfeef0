"""Second moments of what linear layers multiply with their weights: the sums of x x^T."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sentinels import without_sentinels
from graphopt.calibration.statistics import Array, NotANumberError, State

Moments = npt.NDArray[np.float64]

_MOST_ELEMENTS = 1 << 22
"""Elements of unfolded patches that are held at a time."""


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input, in ONNX's words; one number per spatial axis.

    Args:
        kernel: The shape of the kernel.
        strides: Steps.
        dilations: Distances between elements of the kernel.
        pads: Zeros in front of each axis, then behind each.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER, which override `pads`.
        groups: Into how many equal runs the channels are cut.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1

    def margins(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return how many zeros stand in front and behind of each spatial axis of an input."""
        if not self.auto_pad.startswith("SAME"):
            if self.auto_pad == "VALID":
                return [(0, 0)] * len(sizes)
            return list(zip(self.pads[: len(sizes)], self.pads[len(sizes) :], strict=True))
        margins = []
        for axis, size in enumerate(sizes):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            steps = -(-size // self.strides[axis])
            total = max(0, (steps - 1) * self.strides[axis] + reach - size)
            less, more = total // 2, total - total // 2
            margins.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return margins


class LayerMoments:
    """The sum of x x^T over all vectors x that a layer multiplies with its weight, in float64.

    Without a window, x are the rows along an axis. With one, they are the patches of a
    convolution's input (samples, channels, ...), the channel outermost as in its weight, for each
    group of channels apart. Masks count as zero.

    Args:
        axis: The axis of channels, negative where it counts from the end.
        window: See above.

    Attributes:
        count: How many vectors were seen.
    """

    needs_shape: ClassVar[bool] = True

    def __init__(self, axis: int, window: Window | None = None) -> None:
        self.axis, self.window = axis, window
        self.count = 0
        self._sums: Moments | None = None

    def __repr__(self) -> str:
        return f"LayerMoments({self.axis}, {self.window})"

    @property
    def sums(self) -> Moments | None:
        """The sums, of shape (groups, length of x, length of x); None: nothing was seen."""
        return self._sums

    def update(self, batch: Array) -> None:
        """See one more batch.

        Raises:
            NotANumberError: It holds NaN.
            ValueError: It has no such axis, or another number of channels.
        """
        if not -batch.ndim <= self.axis < batch.ndim:
            raise ValueError(f"no axis {self.axis} in shape {batch.shape}")
        kept, _ = without_sentinels(batch)
        real = np.asarray(kept, np.float64 if batch.dtype == np.float64 else np.float32)
        if self.window is not None:
            self._patches(real, self.window)
            return
        rows = np.moveaxis(real, self.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        step = max(1, _MOST_ELEMENTS // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            self._see(rows[None, start : start + step])

    def _patches(self, batch: Array, window: Window) -> None:
        spatial = len(window.kernel)
        if batch.ndim != spatial + 2 or batch.shape[1] % window.groups:
            raise ValueError(f"shape {batch.shape} is none of a {spatial}d convolution's input")
        reach = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
        margins = window.margins(batch.shape[2:])
        padded_size = math.prod(s + sum(m) for s, m in zip(batch.shape[2:], margins, strict=True))
        patch = batch.shape[1] * math.prod(window.kernel)
        step = max(1, _MOST_ELEMENTS // max(1, padded_size * patch // math.prod(window.strides)))
        for start in range(0, len(batch), step):
            part = np.pad(batch[start : start + step], [(0, 0), (0, 0), *margins])
            if any(s < r for s, r in zip(part.shape[2:], reach, strict=True)):
                continue
            views = np.lib.stride_tricks.sliding_window_view(
                part, reach, axis=tuple(range(2, 2 + spatial))
            )
            places = tuple(slice(None, None, s) for s in window.strides)
            inside = tuple(slice(None, None, d) for d in window.dilations)
            views = views[(slice(None), slice(None), *places, *inside)]
            self._see(_vectors(views, spatial, window.groups))

    def _see(self, vectors: Array) -> None:
        """Add vectors of shape (groups, n, length)."""
        if not vectors.shape[1]:
            return
        sums = np.matmul(vectors.transpose(0, 2, 1), vectors).astype(np.float64)
        if np.isnan(sums).any():
            raise NotANumberError("holds NaN")
        self._add(sums, vectors.shape[1])

    def merge(self, other: Self) -> None:
        """See all that another one has seen.

        Raises:
            ValueError: It looks at other vectors, or at some of another length.
        """
        if repr(other) != repr(self):
            raise ValueError(f"{other!r} does not merge into {self!r}")
        if other._sums is not None:
            self._add(other._sums, other.count)

    def state(self) -> State:
        """Return all that was seen."""
        found = {"count": np.array(self.count)}
        return found if self._sums is None else {**found, "sums": self._sums}

    def restore(self, state: State) -> None:
        """Replace what was seen."""
        self.count = int(state["count"])
        sums = state.get("sums")
        self._sums = None if sums is None else sums.astype(np.float64)

    def _add(self, sums: Moments, count: int) -> None:
        if self._sums is None:
            self._sums = np.zeros_like(sums)
        if self._sums.shape != sums.shape:
            raise ValueError(f"vectors of {sums.shape[-1]} after {self._sums.shape[-1]}")
        self._sums += sums
        self.count += count


def _vectors(views: Array, spatial: int, groups: int) -> Array:
    """Bring windows (samples, channels, places..., kernel...) into (groups, n, length)."""
    samples, count = views.shape[:2]
    apart = views.reshape(samples, groups, count // groups, *views.shape[2:])
    places = tuple(range(3, 3 + spatial))
    kernel = tuple(range(3 + spatial, 3 + 2 * spatial))
    ordered = apart.transpose(1, 0, *places, 2, *kernel)
    length = count // groups * math.prod(views.shape[2 + spatial :])
    return ordered.reshape(groups, -1, length)
