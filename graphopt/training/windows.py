"""Where the windows of convolutions and pooling lie in the tensor that they move over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphopt.training.call import Call
from graphopt.training.edges import padded
from graphopt.training.sizes import Size, larger


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes, which are the last ones of a tensor.

    Args:
        kernel: Elements of a window along each axis.
        strides: From window to window.
        dilations: From element to element of a window.
        begin: Padding before the tensor.
        end: Padding behind it; what a last window in part behind it needs is not counted.
        ceil: Whether there may be a last window that needs more padding.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[Size]
    end: list[Size]
    ceil: bool = False

    @property
    def extents(self) -> list[int]:
        """How many elements a window spans along each axis."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return [dilation * (kernel - 1) + 1 for kernel, dilation in pairs]

    @property
    def symmetric(self) -> bool:
        """Whether the padding is known, and the same at both ends."""
        known = all(isinstance(each, int) for each in (*self.begin, *self.end))
        return known and self.begin == self.end and min(self.begin, default=0) >= 0

    @property
    def beyond(self) -> list[int]:
        """How much more padding the last windows may reach into, as `ceil` wants it.

        It holds one window more for each rest of a stride, but none that starts behind the tensor:
        so it is the same for all sizes, and cuts padding off where it is negative.
        """
        if not self.ceil:
            return [0] * len(self.kernel)
        ends = zip(self.strides, self.extents, self.end, strict=True)
        return [min(stride - 1, extent - 1 - end) for stride, extent, end in ends]

    def padded(
        self, tensor: torch.Tensor, value: float, beyond: float | None = None
    ) -> torch.Tensor:
        """Return a tensor with its padding, and with what the last windows need behind it.

        Args:
            tensor: Its last axes are those that the windows move along.
            value: What the padding is filled with.
            beyond: What is behind the padding; None: `value`.
        """
        more = self.beyond
        if beyond is None:
            end = [one + other for one, other in zip(self.end, more, strict=True)]
            return padded(tensor, self.begin, end, value)
        filled = padded(tensor, self.begin, self.end, value)
        return padded(filled, [0] * len(more), more, beyond)


def windows(call: Call, kernel: Sequence[int], sizes: Sequence[Size]) -> Windows:
    """Read the attributes of a convolution or a pooling.

    Args:
        call: Has the attributes strides, dilations, pads, auto_pad and ceil_mode.
        kernel: The size of a window.
        sizes: The spatial sizes of the input.

    Raises:
        GraphoptError: The attributes do not fit the input.
    """
    axes = len(sizes)
    strides = call.integers("strides", [1] * axes)
    dilations = call.integers("dilations", [1] * axes)
    pads = call.integers("pads", [0] * (2 * axes))
    if not len(kernel) == len(strides) == len(dilations) == axes or len(pads) != 2 * axes:
        raise call.refused(f"kernel_shape, strides, dilations or pads are not for {axes} axes")
    ceil = call.integer("ceil_mode", 0) == 1
    auto = call.text("auto_pad", "NOTSET")
    begin: list[Size] = pads[:axes]
    end: list[Size] = pads[axes:]
    if auto == "VALID":
        begin, end = [0] * axes, [0] * axes
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        # There are size / stride windows, rounded up, with or without ceil_mode.
        ceil = False
        begin, end = [], []
        for size, one, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            extent = dilation * (one - 1) + 1
            wanted = ((size + stride - 1) // stride - 1) * stride + extent - size
            if extent < stride:
                wanted = larger(wanted, 0)
            first, last = halves(wanted, upper=auto == "SAME_UPPER")
            begin.append(first)
            end.append(last)
    return Windows(list(kernel), strides, dilations, begin, end, ceil)


def halves(total: Size, *, upper: bool) -> tuple[Size, Size]:
    """Split padding in two, of which the second one is larger if `upper`, else the first."""
    less = total // 2
    return (less, total - less) if upper else (total - less, less)
