"""Boxes in images: choosing them, and pooling inside of them."""

from __future__ import annotations

import math

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Value, integer_of, real_of
from graphopt.training.operators.registry import operator


@operator("NonMaxSuppression", numbers=(2, 3, 4))
def non_max_suppression(
    call: Call,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    most: Value = None,
    overlap: Value = None,
    least: Value = None,
) -> torch.Tensor:
    """Choose boxes by their scores, and none that overlaps a chosen one too much.

    Args:
        call: Has the attribute center_point_box.
        boxes: (batch, boxes, 4).
        scores: (batch, classes, boxes).
        most: How many are chosen for each class of each image; none by default.
        overlap: Intersection over union that a chosen box may have with another at most.
        least: Boxes of scores not above this are left out.

    Returns:
        Image, class and box of each chosen one: (chosen, 3).
    """
    limit = 0 if most is None else integer_of(most)
    bound = 0.0 if overlap is None else real_of(overlap)
    corners = _corners(boxes, call.integer("center_point_box", 0) == 1)
    chosen = []
    for image in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            of_class = scores[image, label]
            order = torch.argsort(of_class, descending=True, stable=True)
            if least is not None:
                order = order[of_class[order] > real_of(least)]
            kept = order[_kept(corners[image, order], limit, bound)]
            where = torch.tensor([image, label], device=kept.device).expand(len(kept), 2)
            chosen.append(torch.cat((where, kept.unsqueeze(1)), 1))
    return torch.cat(chosen) if chosen else boxes.new_zeros((0, 3), dtype=torch.int64)


def _corners(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """Return the lower and the upper corner of boxes: (..., 2, 2)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), -2)


def _kept(corners: torch.Tensor, limit: int, bound: float) -> torch.Tensor:
    """Return which boxes of falling scores are chosen."""
    areas = (corners[:, 1] - corners[:, 0]).prod(-1)
    left = torch.ones(len(corners), dtype=torch.bool, device=corners.device)
    kept: list[int] = []
    while len(kept) < limit and bool(left.any()):
        best = int(left.to(torch.uint8).argmax())
        kept.append(best)
        left[best] = False
        low = torch.maximum(corners[:, 0], corners[best, 0])
        high = torch.minimum(corners[:, 1], corners[best, 1])
        shared = (high - low).clamp(min=0).prod(-1)
        union = areas + areas[best] - shared
        real = (areas > 0) & (areas[best] > 0) & (union > 0)
        left &= ~(real & (shared / union > bound))
    return torch.tensor(kept, dtype=torch.int64, device=corners.device)


@operator("RoiAlign")
def roi_align(
    call: Call, x: torch.Tensor, rois: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """Pool points that are spread evenly over regions."""
    half = call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    edges = rois * call.real("spatial_scale", 1.0) - (0.5 if half else 0.0)
    # Width and height.
    sizes = edges[:, 2:] - edges[:, :2]
    if not half:
        sizes = sizes.clamp(min=1)
    counts = call.integer("output_height", 1), call.integer("output_width", 1)
    bins = sizes.flip(1) / sizes.new_tensor(counts)
    starts = edges[:, :2].flip(1)
    ratio = call.integer("sampling_ratio", 0)
    largest = call.text("mode", "avg") == "max"
    images = images.to(torch.int64)
    if ratio > 0:
        return _aligned(x, images, starts, bins, counts, (ratio, ratio), largest)
    # As many points as a bin has pixels: each region has its own.
    pooled = []
    for index, (rows, columns) in enumerate(bins.detach().ceil().to(torch.int64).tolist()):
        one = slice(index, index + 1)
        if rows <= 0 or columns <= 0:
            pooled.append(x.new_zeros(1, x.shape[1], *counts))
            continue
        points = rows, columns
        pooled.append(_aligned(x, images[one], starts[one], bins[one], counts, points, largest))
    return torch.cat(pooled) if pooled else x.new_zeros(0, x.shape[1], *counts)


def _aligned(
    x: torch.Tensor,
    images: torch.Tensor,
    starts: torch.Tensor,
    bins: torch.Tensor,
    counts: tuple[int, int],
    points: tuple[int, int],
    largest: bool,
) -> torch.Tensor:
    """Pool regions.

    Args:
        x: (batch, channels, height, width).
        images: Which element of the batch each region is of.
        starts: The first row and column of each: (regions, 2).
        bins: Their bins' heights and widths.
        counts: How many bins there are along the axes.
        points: How many points each bin has along the axes.
        largest: Whether the largest is pooled, and not the mean.
    """
    sides = [
        _between(starts[:, axis], bins[:, axis], counts[axis], points[axis], x.shape[2 + axis])
        for axis in range(2)
    ]
    of_image = images.reshape(-1, 1, 1, 1, 1)
    terms = []
    for row, row_share in sides[0]:
        for column, column_share in sides[1]:
            at = row[:, :, :, None, None], column[:, None, None, :, :]
            share = row_share[:, :, :, None, None] * column_share[:, None, None, :, :]
            # (regions, rows, points, columns, points, channels)
            terms.append(x.permute(0, 2, 3, 1)[of_image, at[0], at[1]] * share.unsqueeze(-1))
    corners = torch.stack(terms)
    # The largest is one of the weighted corners, as ONNX Runtime and PyTorch's older code have it.
    pooled = corners.amax(0).amax((2, 4)) if largest else corners.sum(0).mean((2, 4))
    return pooled.permute(0, 3, 1, 2)


def _between(
    start: torch.Tensor, size: torch.Tensor, count: int, points: int, length: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return, for each point along an axis, its two neighbours and their shares."""
    cells = torch.arange(count, device=start.device).to(start.dtype).reshape(1, -1, 1)
    within = torch.arange(points, device=start.device).to(start.dtype) + 0.5
    size = size.reshape(-1, 1, 1)
    at = start.reshape(-1, 1, 1) + cells * size + within * size / points
    outside = (at < -1) | (at > length)
    at = at.clamp(min=0)
    low = at.floor().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = torch.where(low >= length - 1, torch.zeros_like(at), at - low)
    zero = torch.zeros_like(at)
    return [
        (low.to(torch.int64), torch.where(outside, zero, 1 - share)),
        (high.to(torch.int64), torch.where(outside, zero, share)),
    ]


@operator("MaxRoiPool")
def max_roi_pool(call: Call, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    """Return the largest element of each bin of regions, whose edges are rounded to pixels."""
    rows, columns = call.integers("pooled_shape")
    scaled = rois[:, 1:] * call.real("spatial_scale", 1.0)
    # Half a pixel is rounded away from zero.
    edges = torch.sign(scaled) * torch.floor(scaled.abs() + 0.5)
    features = x[rois[:, 0].to(torch.int64)]
    down = _covered(edges[:, 1], edges[:, 3], rows, x.shape[2])
    across = _covered(edges[:, 0], edges[:, 2], columns, x.shape[3])
    lowest = -math.inf
    # First over rows, (regions, channels, bins, width), then over columns.
    high = torch.stack(
        [features.masked_fill(~down[:, None, row, :, None], lowest).amax(2) for row in range(rows)],
        2,
    )
    pooled = torch.stack(
        [
            high.masked_fill(~across[:, None, None, column, :], lowest).amax(3)
            for column in range(columns)
        ],
        3,
    )
    return pooled.masked_fill(pooled == lowest, 0)


def _covered(start: torch.Tensor, end: torch.Tensor, bins: int, length: int) -> torch.Tensor:
    """Return which pixels lie in which bin along an axis: (regions, bins, length)."""
    size = (end - start + 1).clamp(min=1) / bins
    cells = torch.arange(bins, device=start.device)
    first = torch.floor(cells * size.unsqueeze(1)) + start.unsqueeze(1)
    last = torch.ceil((cells + 1) * size.unsqueeze(1)) + start.unsqueeze(1)
    at = torch.arange(length, device=start.device)
    return (at >= first.unsqueeze(2)) & (at < last.unsqueeze(2))
