"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.edges import padded
from graphopt.training.operators.quantization import saturated
from graphopt.training.operators.registry import operator
from graphopt.training.operators.zero_points import centred
from graphopt.training.sizes import Size, larger
from graphopt.training.windows import halves, windows

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@operator("Conv")
def conv(
    call: Call, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve."""
    axes = x.ndim - 2
    if axes not in _CONVOLUTIONS:
        raise call.refused(f"PyTorch convolves along 1 to 3 axes, not {axes}")
    found = windows(call, weight.shape[2:], x.shape[2:])
    padding = found.begin if found.symmetric else [0] * axes
    if not found.symmetric:
        x = found.padded(x, 0)
    made: torch.Tensor = _CONVOLUTIONS[axes](
        x, weight, bias, found.strides, padding, found.dilations, call.integer("group", 1)
    )
    return made


@operator("ConvTranspose")
def conv_transpose(
    call: Call, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve transposed: the gradient of a convolution by its input."""
    axes = x.ndim - 2
    if axes not in _TRANSPOSED:
        raise call.refused(f"PyTorch convolves along 1 to 3 axes, not {axes}")
    strides = call.integers("strides", [1] * axes)
    dilations = call.integers("dilations", [1] * axes)
    more = call.integers("output_padding", [0] * axes)
    full = [
        (size - 1) * stride + dilation * (kernel - 1) + 1
        for size, kernel, stride, dilation in zip(
            x.shape[2:], weight.shape[2:], strides, dilations, strict=True
        )
    ]
    begin, sizes = _transposed_sizes(call, x.shape[2:], full, more)
    end = [whole - size - first for whole, size, first in zip(full, sizes, begin, strict=True)]
    group = call.integer("group", 1)
    convolve = _TRANSPOSED[axes]
    if _cuts_the_same(begin, end, more, strides, dilations):
        made: torch.Tensor = convolve(x, weight, bias, strides, begin, more, group, dilations)
        return made
    whole = convolve(x, weight, None, strides, 0, 0, group, dilations)
    cut: torch.Tensor = padded(whole, [-each for each in begin], [-each for each in end])
    return cut if bias is None else cut + bias.reshape(-1, *[1] * axes)


def _transposed_sizes(
    call: Call, inputs: Sequence[Size], full: Sequence[Size], more: Sequence[int]
) -> tuple[list[Size], list[Size]]:
    """Return how much is cut off before the output of full size, and the sizes that remain."""
    axes = len(full)
    auto = call.text("auto_pad", "NOTSET")
    wanted: list[Size] | None = None
    if call.has("output_shape"):
        wanted = list(call.integers("output_shape")[-axes:])
    pads = call.integers("pads", [0] * (2 * axes))
    begin: list[Size] = pads[:axes]
    end: list[Size] = pads[axes:]
    if auto == "VALID":
        begin, end = [0] * axes, [0] * axes
    if wanted is not None or auto.startswith("SAME"):
        same = [
            size * stride
            for size, stride in zip(inputs, call.integers("strides", [1] * axes), strict=True)
        ]
        begin, end = [], []
        for whole, extra, size in zip(full, more, wanted or same, strict=True):
            total = larger(whole + extra - size, 0)
            first, last = halves(total, upper=auto == "SAME_UPPER")
            begin.append(first)
            end.append(last)
    sizes = [
        whole + extra - first - last
        for whole, extra, first, last in zip(full, more, begin, end, strict=True)
    ]
    return begin, wanted or sizes


def _cuts_the_same(
    begin: Sequence[Size],
    end: Sequence[Size],
    more: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> bool:
    """Whether PyTorch's own padding and output_padding cut off as much."""
    if not all(isinstance(each, int) and each >= 0 for each in begin):
        return False
    fits = [
        extra < max(stride, dilation)
        for extra, stride, dilation in zip(more, strides, dilations, strict=True)
    ]
    # The size of the input cancels out of `end`, which is a number then even where it is symbolic.
    kept = [first - extra for first, extra in zip(begin, more, strict=True)]
    return all(fits) and all(bool(one == other) for one, other in zip(end, kept, strict=True))


def _integer_conv(
    call: Call,
    x: torch.Tensor,
    x_zero_point: torch.Tensor | None,
    weight: torch.Tensor,
    w_zero_point: torch.Tensor | None,
) -> torch.Tensor:
    """Convolve integers, exactly."""
    numbers = centred(x, _fitted_to_axis(x_zero_point, x, 1))
    filters = centred(weight, _fitted_to_axis(w_zero_point, weight, 0))
    whole: torch.Tensor = conv(call, numbers, filters)
    return whole.to(torch.int64)


def _fitted_to_axis(
    zero_point: torch.Tensor | None, x: torch.Tensor, axis: int
) -> torch.Tensor | None:
    """Let a zero point for each place of an axis fit a tensor; one for all does."""
    if zero_point is None or zero_point.ndim != 1 or zero_point.shape[0] == 1:
        return zero_point
    shape = [1] * x.ndim
    shape[axis] = -1
    return zero_point.reshape(shape)


@operator("ConvInteger")
def conv_integer(
    call: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    x_zero_point: torch.Tensor | None = None,
    w_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve 8-bit integers to 32-bit ones."""
    return _integer_conv(call, x, x_zero_point, weight, w_zero_point).to(torch.int32)


@operator("QLinearConv")
def qlinear_conv(
    call: Call,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero_point: torch.Tensor,
    weight: torch.Tensor,
    w_scale: torch.Tensor,
    w_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve 8-bit integers, and quantize the sums to 8-bit ones."""
    total = _integer_conv(call, x, x_zero_point, weight, w_zero_point)
    channels = (-1, *[1] * (x.ndim - 2))
    if bias is not None:
        total = total + bias.to(torch.int64).reshape(channels)
    scale = x_scale.reshape(()) * w_scale.reshape(-1) / y_scale.reshape(())
    scaled = total.to(torch.float32) * scale.reshape(channels)
    shifted = torch.round(scaled) + y_zero_point.reshape(()).to(torch.float32)
    return saturated(shifted, call, y_zero_point.dtype)


@operator("CausalConvWithState")
def causal_conv_with_state(
    call: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    past: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve each channel with what came before; also return what the next call has before it."""
    before = weight.shape[2] - 1
    whole = functional.pad(x, (before, 0)) if past is None else torch.cat((past, x), 2)
    y = functional.conv1d(whole, weight, bias, groups=x.shape[1])
    if call.text("activation", "none") in ("silu", "swish"):
        y = functional.silu(y)
    return y, whole[..., whole.shape[2] - before :]
