"""Normalizations and what else computes along some axes of its input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import integers
from passes.prune.coupling import Kept
from passes.prune.rules.elementwise import align, elementwise_ids
from passes.prune.site import Rule, Site

_PER_CHANNEL_GROUPS = 21
"""Since this opset, scale and bias of a GroupNormalization have a number per channel."""


def batch(site: Site) -> None:
    """Couple X (N, C, ...) with scale, shift, mean and variance (C)."""
    if site.integer("training_mode", 0) or any(site.output(i) for i in range(1, 5)):
        raise site.mixed("computes statistics")
    source, target = site.ends()
    site.join_all(source, target)
    _parameters(site, range(1, 5))


def instance(site: Site) -> None:
    """Couple X (N, C, ...) with scale and shift (C); statistics run over the places."""
    source, target = site.ends()
    site.join_all(source, target, frozenset(range(2, len(site.dims(source)))))
    _parameters(site, range(1, 3))


def _parameters(site: Site, inputs: range) -> None:
    for index in inputs:
        elementwise_ids(site, site.input(index), site.ids(site.ends()[1], 1))


def grouped(site: Site) -> None:
    """Whole groups of channels of X (N, C, ...) go, with their scales and shifts."""
    source, target = site.ends()
    site.join_all(source, target, frozenset(range(2, len(site.dims(source)))))
    groups = max(1, site.integer("num_groups", 1))
    channels = site.ids(source, 1)
    if channels is None or channels.size % groups:
        raise site.mixed("has sizes that are not known")
    each = channels.size // groups
    first = channels.reshape(groups, each)
    site.join_ids(np.repeat(first[:, 0], each), channels)
    per_channel = site.opset >= _PER_CHANNEL_GROUPS
    for index in (1, 2):
        elementwise_ids(site, site.input(index), channels if per_channel else first[:, 0])

    def adjust(kept: Kept) -> None:
        left = (kept.size(source, 1) or channels.size) // each
        site.node.attributes["num_groups"] = ir.AttrInt64("num_groups", left)

    site.adjust(adjust)


def layer(site: Site) -> None:
    """Keep what a LayerNormalization or an RMSNormalization runs over; other axes pass."""
    source, target = site.ends()
    axis, rank = site.axis("axis", source, -1), len(site.dims(source))
    site.join_all(source, target, frozenset(range(axis, rank)))
    for index in (1, 2):
        place = site.input(index)
        if place is not None:
            align(site, place, target)
    for index in (1, 2):
        statistic = site.output(index)
        if statistic is not None:
            site.join_all(statistic, source, frozenset(range(axis, rank)))


def along(axis: int, *, coerced: bool = False) -> Rule:
    """Make the rule of an operator that mixes what lies along its attribute `axis`.

    Args:
        axis: The default of the attribute.
        coerced: Whether before opset 13 all axes from there on were mixed, by default from 1 on.
    """

    def rule(site: Site) -> None:
        source, target = site.ends()
        rank = len(site.dims(source))
        if coerced and site.opset < 13:
            site.join_all(source, target, frozenset(range(site.axis("axis", source, 1), rank)))
        else:
            site.join_all(source, target, frozenset({site.axis("axis", source, axis)}))

    return rule


def named_axes(site: Site) -> None:
    """Keep the axes that a MeanVarianceNormalization runs over."""
    source, target = site.ends()
    rank = len(site.dims(source))
    axes = site.integers("axes") or (0, 2, 3)
    site.join_all(source, target, frozenset(site.counted(axis, rank) for axis in axes))


def across_channels(site: Site) -> None:
    """Keep the channels that an LRN sums over."""
    site.join_all(*site.ends(), frozenset({1}))


def cumulative(site: Site) -> None:
    """Keep the axis that a CumSum runs along."""
    source, target = site.ends()
    axes = integers(site.node.inputs[1])
    if axes is None:
        raise site.mixed("runs along a computed axis")
    rank = len(site.dims(source))
    site.join_all(source, target, frozenset(site.counted(axis, rank) for axis in axes))


def quantized(site: Site) -> None:
    """Let all axes pass a QuantizeLinear or DequantizeLinear, with a scale per slice."""
    source, target = site.ends()
    if site.integer("block_size", 0):
        raise site.mixed("has a scale for each block")
    site.join_all(source, target)
    for index in (1, 2):
        place = site.input(index)
        if place is not None and any(size != 1 for size in site.dims(place)):
            elementwise_ids(site, place, site.ids(target, site.axis("axis", target, 1)))
