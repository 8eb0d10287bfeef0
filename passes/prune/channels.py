"""Sets of slices that can be removed one by one: the channels of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from passes.prune.coupling import Components, Coupling
from passes.prune.places import Ids, Place, Wide


@dataclass(frozen=True)
class Channels:
    """What can be removed of a set of axes, one channel at a time.

    Args:
        axes: Every tensor and axis that loses slices, in the order of the model.
        slices: For each channel the slices that go with it.
        scores: How much each channel counts.
    """

    axes: tuple[tuple[Place, int], ...]
    slices: Sequence[Ids]
    scores: Wide

    @property
    def count(self) -> int:
        """The number of channels."""
        return len(self.slices)


def settled(coupling: Coupling) -> tuple[Components, list[Ids]]:
    """Let every grouped layer lose as much in each of its groups.

    Groups may lose channels of their own where these are on no way that cuts them differently:
    then any channel of one group can go with any of another. Elsewhere equal indices go together.

    Returns:
        What goes together; and of layers with groups of their own, the sets in each group.
    """
    while True:
        components = coupling.solve()
        kept = [run for run in coupling.runs if not components.frozen(run.reshape(-1)).all()]
        free = _free(kept, components)
        tied = [run for run, own in zip(kept, free, strict=True) if not own]
        if not tied:
            rows = {_partition(row): row for row in (components.labels[run] for run in kept)}
            return components, list(rows.values())
        for run in tied:
            coupling.join(np.tile(run[0], len(run) - 1), run[1:].reshape(-1))
        coupling.runs = [run for run, own in zip(kept, free, strict=True) if own]


def _free(runs: Sequence[Ids], components: Components) -> list[bool]:
    """Say for each layer whether its groups may lose channels of their own."""
    partitions: dict[int, set[frozenset[frozenset[int]]]] = {}
    rows = [components.labels[run] for run in runs]
    for row in rows:
        partition = _partition(row)
        for label in row.reshape(-1).tolist():
            partitions.setdefault(label, set()).add(partition)
    return [
        np.unique(row).size == row.size
        and not components.frozen(run.reshape(-1)).any()
        and all(len(partitions[label]) == 1 for label in row.reshape(-1).tolist())
        for run, row in zip(runs, rows, strict=True)
    ]


def _partition(row: Ids) -> frozenset[frozenset[int]]:
    return frozenset(frozenset(one.tolist()) for one in row)


def channels(components: Components, grouped: Sequence[Ids], scores: Wide) -> Iterator[Channels]:
    """Yield what can be removed, in the order of the model.

    Args:
        components: What goes together.
        grouped: Of layers with groups, the sets in each; the worst of each group go together.
        scores: The score of each set, at its number; NaN for what is no channel of a layer.
    """
    units = _ranked(components, grouped, scores)
    roots = np.unique(components.labels)
    sums, counts = np.zeros(scores.size), np.zeros(scores.size)
    np.add.at(sums, units[roots], scores[roots])
    np.add.at(counts, units[roots], 1)
    every = np.arange(components.labels.size, dtype=np.int64)
    unit = units[components.labels]
    ids = every[np.isfinite(sums[unit]) & ~components.frozen(every)]
    order = np.argsort(unit[ids], kind="stable")
    if not ids.size:
        return
    names, starts = np.unique(unit[ids][order], return_index=True)
    found: dict[tuple[int, ...], list[tuple[int, Ids]]] = {}
    runs = np.split(ids[order], starts[1:])
    # The slices of a channel ascend, and so do their owners.
    owners = np.split(components.coupling.places.owner_of(ids[order]), starts[1:])
    for name, slices, own in zip(names.tolist(), runs, owners, strict=True):
        found.setdefault(tuple(dict.fromkeys(own.tolist())), []).append((name, slices))
    for owners_key, members in found.items():
        axes = tuple(components.coupling.places.owners[owner] for owner in owners_key)
        means = np.array([sums[name] / counts[name] for name, _ in members])
        yield Channels(axes, [slices for _, slices in members], means)


def _ranked(components: Components, grouped: Sequence[Ids], scores: Wide) -> Ids:
    """Return the set that each set goes with: itself, or that of the same rank in a group."""
    units = np.arange(components.labels.size, dtype=np.int64)
    for rows in grouped:
        order = np.argsort(scores[rows], axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, axis=1)
        units[ranked] = ranked.min(axis=0)
    return units
