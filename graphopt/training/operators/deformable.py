"""Convolution whose windows are bent by offsets."""

from __future__ import annotations

import itertools
import math

import torch

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator


@operator("DeformConv")
def deform_conv(
    call: Call,
    x: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve, with each element of a window taken from where its offset says."""
    axes = x.ndim - 2
    kernel = list(weight.shape[2:])
    bent = call.integer("offset_group", 1)
    group = call.integer("group", 1)
    counts = offset.shape[2:]
    points = math.prod(kernel)
    moved = offset.reshape(x.shape[0], bent, points, axes, *counts)
    regular = _regular(call, kernel, counts, x.device)
    positions = [moved[:, :, :, axis] + regular[axis] for axis in range(axes)]
    taken = _sampled(x.reshape(x.shape[0], bent, x.shape[1] // bent, *x.shape[2:]), positions)
    if mask is not None:
        taken = taken * mask.reshape(x.shape[0], bent, 1, points, -1)
    columns = taken.reshape(x.shape[0], group, x.shape[1] // group * points, -1)
    y = weight.reshape(group, weight.shape[0] // group, -1) @ columns
    y = y.reshape(x.shape[0], weight.shape[0], *counts)
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


def _regular(
    call: Call, kernel: list[int], counts: torch.Size, device: torch.device
) -> list[torch.Tensor]:
    """Return where elements lie without offsets, for each axis: (points, *counts)."""
    axes = len(kernel)
    strides = call.integers("strides", [1] * axes)
    dilations = call.integers("dilations", [1] * axes)
    pads = call.integers("pads", [0] * (2 * axes))
    found = []
    for axis in range(axes):
        windows = torch.arange(counts[axis], device=device) * strides[axis] - pads[axis]
        within = torch.arange(kernel[axis], device=device) * dilations[axis]
        shape = [1] * (2 * axes)
        shape[axis] = -1
        behind = [1] * (2 * axes)
        behind[axes + axis] = -1
        at = within.reshape(shape) + windows.reshape(behind)
        found.append(at.expand(*kernel, *counts).reshape(-1, *counts))
    return found


def _sampled(x: torch.Tensor, positions: list[torch.Tensor]) -> torch.Tensor:
    """Interpolate linearly between elements, and zeros around them.

    Args:
        x: (batch, groups, channels, *sizes).
        positions: For each axis, (batch, groups, points, *counts).

    Returns:
        (batch, groups, channels, points, counts).
    """
    sizes = x.shape[3:]
    flat = x.flatten(3)
    floors = [position.floor() for position in positions]
    total: torch.Tensor | None = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        share = torch.ones_like(positions[0])
        place = torch.zeros_like(positions[0], dtype=torch.int64)
        for axis, step in enumerate(corner):
            part = positions[axis] - floors[axis]
            share = share * (part if step else 1 - part)
            at = floors[axis].to(torch.int64) + step
            share = torch.where((at >= 0) & (at < sizes[axis]), share, torch.zeros_like(share))
            place = place * sizes[axis] + at.clamp(min=0, max=sizes[axis] - 1)
        places = place.flatten(2).unsqueeze(2).expand(-1, -1, flat.shape[2], -1)
        part = flat.gather(3, places) * share.flatten(2).unsqueeze(2)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("a position has no axis")
    return total.reshape(*flat.shape[:3], positions[0].shape[2], -1)
