"""Fourier transforms, and what goes with them."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.numbers import Value, integer_of, real_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of

_FLOAT = int(ir.DataType.FLOAT)


@operator("DFT", numbers=(1, 2))
def dft(call: Call, x: torch.Tensor, length: Value = None, axis: Value = None) -> torch.Tensor:
    """Transform between signals and frequencies; the last axis has real and imaginary parts."""
    along = axis_of(-2 if axis is None else integer_of(axis), x.ndim)
    size = None if length is None else integer_of(length)
    half = call.integer("onesided", 0) == 1
    wide = _wide(x)
    signal = _complex(wide)
    if call.integer("inverse", 0):
        if half:
            real: torch.Tensor = torch.fft.irfft(_as_complex(signal), size, along)
            return real.unsqueeze(-1).to(x.dtype)
        return _parts(torch.fft.ifft(signal, size, along)).to(x.dtype)
    return _parts(_transformed(signal, size, along, half)).to(x.dtype)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def _complex(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of complex numbers, of real ones where the last axis has one part."""
    if x.shape[-1] == 1:
        return x.squeeze(-1)
    joined: torch.Tensor = torch.view_as_complex(x.contiguous())
    return joined


def _as_complex(signal: torch.Tensor) -> torch.Tensor:
    return signal if signal.is_complex() else torch.complex(signal, torch.zeros_like(signal))


def _parts(signal: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(_as_complex(signal).resolve_conj())


def _transformed(signal: torch.Tensor, size: Any, axis: int, half: bool) -> torch.Tensor:
    whole: torch.Tensor
    if half and not signal.is_complex():
        whole = torch.fft.rfft(signal, size, axis)
        return whole
    whole = torch.fft.fft(signal, size, axis)
    return whole.narrow(axis, 0, whole.shape[axis] // 2 + 1) if half else whole


@operator("STFT", numbers=(1, 3))
def stft(
    call: Call,
    signal: torch.Tensor,
    frame_step: Value,
    window: torch.Tensor | None = None,
    frame_length: Value = None,
) -> torch.Tensor:
    """Transform overlapping frames of signals, (batch, length, 1 or 2), to frequencies."""
    if frame_length is not None:
        length = integer_of(frame_length)
    elif window is not None:
        length = window.shape[0]
    else:
        raise call.refused("it has neither a window nor a frame_length")
    frames = _complex(_wide(signal)).unfold(1, length, integer_of(frame_step))
    if window is not None:
        frames = frames * window.to(frames.real.dtype)
    half = call.integer("onesided", 1) == 1
    return _parts(_transformed(frames, None, 2, half)).to(signal.dtype)


@operator("BlackmanWindow", numbers=(0,))
def blackman_window(call: Call, size: Value) -> torch.Tensor:
    """Make a Blackman window."""
    return _window(call, size, 0.42, 0.5, 0.08)


@operator("HammingWindow", numbers=(0,))
def hamming_window(call: Call, size: Value) -> torch.Tensor:
    """Make a Hamming window."""
    return _window(call, size, 25 / 46, 21 / 46)


@operator("HannWindow", numbers=(0,))
def hann_window(call: Call, size: Value) -> torch.Tensor:
    """Make a Hann window."""
    return _window(call, size, 0.5, 0.5)


def _window(
    call: Call, size: Value, mean: float, first: float, second: float = 0.0
) -> torch.Tensor:
    """Make a window of a mean and one or two cosines over it."""
    length = integer_of(size)
    period = length if call.integer("periodic", 1) else length - 1
    angle = torch.arange(length, dtype=torch.float64, device=call.device) * (2 * math.pi / period)
    made = mean - first * torch.cos(angle) + second * torch.cos(2 * angle)
    return made.to(torch_dtype(ir.DataType(call.integer("output_datatype", _FLOAT))))


@operator("MelWeightMatrix", numbers=(0, 1, 2, 3, 4))
def mel_weight_matrix(
    call: Call, bins: Value, length: Value, rate: Value, lower: Value, upper: Value
) -> torch.Tensor:
    """Make the matrix of triangles that sum frequencies up to those of the mel scale."""
    count, size, sampled = integer_of(bins), integer_of(length), integer_of(rate)
    low, high = (2595 * math.log10(1 + real_of(each) / 700) for each in (lower, upper))
    step = (high - low) / (count + 2)
    hertz = [700 * (10 ** ((low + step * index) / 2595) - 1) for index in range(count + 2)]
    corners = torch.tensor(
        [math.floor((size + 1) * each / sampled) for each in hertz], device=call.device
    )
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    at = torch.arange(size // 2 + 1, device=call.device).unsqueeze(1)
    rising = (at - left) / (centre - left)
    falling = (right - at) / (right - centre)
    zero = torch.zeros((), device=call.device)
    made = torch.where((at >= left) & (at < centre), rising, zero)
    made = torch.where((at > centre) & (at < right), falling, made)
    made = torch.where(at == centre, torch.ones_like(zero), made)
    dtype = torch_dtype(ir.DataType(call.integer("output_datatype", _FLOAT)))
    return made.to(dtype)
