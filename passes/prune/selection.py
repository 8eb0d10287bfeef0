"""Which channels go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passes.prune.channels import Channels
from passes.prune.places import Ids


@dataclass(frozen=True)
class Bounds:
    """How many channels stay at least.

    Args:
        least: So many of each group.
        multiple_of: The number of channels that stay is a multiple of this where it can be.
    """

    least: int = 1
    multiple_of: int = 1

    def kept(self, wanted: int, width: int, slices: int) -> int:
        """Return how many channels stay.

        Args:
            wanted: How many the criterion keeps.
            width: How many there are.
            slices: How many slices of a weight a channel has.
        """
        kept = max(wanted, min(self.least, width), 1)
        while kept < width and kept * slices % self.multiple_of:
            kept += 1
        return kept


def lowest(
    groups: Sequence[Channels],
    slices: Sequence[int],
    share: float,
    bounds: Bounds,
    *,
    together: bool,
) -> list[Ids]:
    """Choose the share of channels with the lowest scores.

    Args:
        groups: What can be removed.
        slices: How many slices of its weight a channel of each group has.
        share: From 0 to 1.
        bounds: What stays.
        together: Whether scores of all groups are compared with each other.

    Returns:
        For each group the channels that go, lowest first. Of equal scores the first ones go.
    """
    if not together:
        wanted = [round(share * group.count) for group in groups]
    else:
        wanted = _wanted(groups, share, bounds)
    return [
        _first(group, bounds.kept(group.count - gone, group.count, each))
        for group, gone, each in zip(groups, wanted, slices, strict=True)
    ]


def _wanted(groups: Sequence[Channels], share: float, bounds: Bounds) -> list[int]:
    """Take the lowest of all, passing over groups that have given all they can."""
    owners = np.concatenate([np.full(g.count, i) for i, g in enumerate(groups)] or [np.zeros(0)])
    scores = np.concatenate([group.scores for group in groups] or [np.zeros(0)])
    left = round(share * scores.size)
    room = [group.count - max(1, min(bounds.least, group.count)) for group in groups]
    wanted = [0] * len(groups)
    for owner in owners[np.argsort(scores, kind="stable")].astype(int).tolist():
        if left and room[owner]:
            wanted[owner], room[owner], left = wanted[owner] + 1, room[owner] - 1, left - 1
    return wanted


def below(
    groups: Sequence[Channels], slices: Sequence[int], threshold: float, bounds: Bounds
) -> list[Ids]:
    """Choose the channels whose score is below a threshold."""
    return [
        _first(group, bounds.kept(int((group.scores >= threshold).sum()), group.count, each))
        for group, each in zip(groups, slices, strict=True)
    ]


def _first(group: Channels, kept: int) -> Ids:
    return np.argsort(group.scores, kind="stable")[: group.count - kept]
