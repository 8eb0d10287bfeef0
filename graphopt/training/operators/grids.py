"""Sampling along grids, and summing up of overlapping blocks."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.numbers import Value, integers_of
from graphopt.training.operators.registry import operator

_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(call: Call, x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample the input where a grid says."""
    mode = call.text("mode", "linear")
    if mode == "cubic" and x.ndim != 4:
        raise call.refused("PyTorch samples by cubics along 2 axes only")
    if x.ndim not in (4, 5):
        raise call.refused(f"PyTorch samples along 2 or 3 axes, not {x.ndim - 2}")
    wide = torch.promote_types(x.dtype, grid.dtype)
    sampled = functional.grid_sample(
        x.to(wide),
        grid.to(wide),
        _MODES.get(mode, mode),
        call.text("padding_mode", "zeros"),
        call.integer("align_corners", 0) == 1,
    )
    return sampled.to(x.dtype)


@operator("AffineGrid", numbers=(1,))
def affine_grid(call: Call, theta: torch.Tensor, size: Value) -> torch.Tensor:
    """Make the grid that samples by affine transformations."""
    aligned = call.integer("align_corners", 0) == 1
    return functional.affine_grid(theta, integers_of(size), aligned)


@operator("Col2Im", numbers=(1, 2))
def col2im(call: Call, x: torch.Tensor, image_shape: Value, block_shape: Value) -> torch.Tensor:
    """Put blocks, (batch, channels * block, blocks), where they come from; sum up what overlaps."""
    image, block = integers_of(image_shape), integers_of(block_shape)
    axes = len(image)
    strides = call.integers("strides", [1] * axes)
    dilations = call.integers("dilations", [1] * axes)
    pads = call.integers("pads", [0] * (2 * axes))
    padded = [image[axis] + pads[axis] + pads[axis + axes] for axis in range(axes)]
    # Of each element of each block, its place in the padded image.
    places = torch.zeros((1, 1), dtype=torch.int64, device=x.device)
    for axis, size in enumerate(padded):
        blocks = (size - dilations[axis] * (block[axis] - 1) - 1) // strides[axis] + 1
        within = torch.arange(block[axis], device=x.device) * dilations[axis]
        first = torch.arange(blocks, device=x.device) * strides[axis]
        at = within.unsqueeze(1) + first
        places = places[:, None, :, None] * size + at[None, :, None, :]
        places = places.flatten(2).flatten(0, 1)
    channels = x.shape[1] // math.prod(block)
    parts = x.reshape(x.shape[0], channels, -1)
    whole = parts.new_zeros(x.shape[0], channels, math.prod(padded))
    summed = whole.index_add(2, places.flatten(), parts).reshape(x.shape[0], channels, *padded)
    for axis, size in enumerate(image):
        summed = summed.narrow(axis + 2, pads[axis], size)
    return summed
