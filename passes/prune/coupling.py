"""Which slices of tensors have to be removed together, and which must stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_ir as ir

from passes.prune.parameters import Parameters
from passes.prune.places import Ids, Mask, Place, Places


class Kept(Protocol):
    """What is left of the slices at some time."""

    def size(self, place: Place, axis: int) -> int | None:
        """Return the size that an axis has now; None where it is not known."""

    def mask(self, place: Place, axis: int) -> Mask | None:
        """Say for each slice whether it is still there; None where an axis has no slices."""


Adjust = Callable[[Kept], None]
"""Brings attributes and parameters of a node in line with new sizes of its tensors."""


@dataclass(frozen=True)
class Regrouping:
    """Axes that a Reshape joins to one, or that it splits one into.

    Args:
        whole: The one axis.
        place: The tensor with several axes.
        axes: These axes, outermost first; their sizes are over 1.
        at: What a refusal calls the node.
    """

    whole: tuple[Place, int]
    place: Place
    axes: tuple[int, ...]
    at: str


@dataclass
class Coupling:
    """Constraints on the removal of slices, as the rules of operators add them.

    Args:
        places: The slices.
        parameters: Where nodes get new parameters.
        pairs: Slices that go together.
        stays: Slices that stay, and why.
        runs: Rows of slices of which all must lose the same number.
        regroupings: Reshapes of which is not decided yet which axis may lose slices.
        adjusters: What has to follow the sizes of the tensors of nodes.
    """

    places: Places
    parameters: Parameters
    pairs: list[tuple[Ids, Ids]] = field(default_factory=list)
    stays: list[tuple[Ids, str]] = field(default_factory=list)
    runs: list[Ids] = field(default_factory=list)
    regroupings: list[Regrouping] = field(default_factory=list)
    adjusters: dict[ir.Node, Adjust] = field(default_factory=dict)

    def join(self, first: Ids, second: Ids) -> None:
        """Let slices go together, one by one."""
        self.pairs.append((first, second))

    def freeze(self, place: Place, why: str, axis: int | None = None) -> None:
        """Keep all slices along an axis, or along all axes."""
        dims = self.places.dims(place)
        for one in range(len(dims or ())) if axis is None else (axis,):
            ids = self.places.ids(place, one)
            if ids is not None:
                self.stays.append((ids, why))

    def regroup(self, one: Regrouping) -> None:
        """Leave open which of several axes goes with slices of one."""
        self.places.ids(*one.whole)
        for axis in one.axes:
            self.places.ids(one.place, axis)
        self.regroupings.append(one)

    def solve(self) -> Components:
        """Decide the open regroupings, and return what goes together."""
        while self.regroupings:
            components = Components.of(self)
            clear = [one for one in self.regroupings if len(_open(one, components)) <= 1]
            decided = clear or self.regroupings
            self.regroupings = [one for one in self.regroupings if one not in decided]
            for one in decided:
                self._decide(one, components)
        return Components.of(self)

    def _decide(self, one: Regrouping, components: Components) -> None:
        """Let the outermost axis that can lose slices do so."""
        chosen = next(iter(_open(one, components)), one.axes[0])
        sizes = self._extents(one)
        whole = self.places.ids(*one.whole)
        part = self.places.ids(one.place, chosen)
        for axis in one.axes:
            if axis != chosen:
                self.freeze(one.place, f"{one.at} mixes them with others", axis)
        if whole is None or part is None:
            self.freeze(one.whole[0], f"{one.at} has sizes that are not known", one.whole[1])
            return
        spread = np.moveaxis(whole.reshape(sizes), one.axes.index(chosen), 0).reshape(part.size, -1)
        self.join(np.repeat(part, spread.shape[1]), spread.reshape(-1))

    def _extents(self, one: Regrouping) -> list[int]:
        found = [self.places.ids(one.place, axis) for axis in one.axes]
        return [1 if ids is None else ids.size for ids in found]


def _open(one: Regrouping, components: Components) -> list[int]:
    places = components.coupling.places
    whole = places.ids(*one.whole)
    if whole is None or components.frozen(whole).all():
        return []
    found = {axis: places.ids(one.place, axis) for axis in one.axes}
    return [a for a, ids in found.items() if ids is not None and not components.frozen(ids).all()]


class Components:
    """Sets of slices that go together.

    Args:
        coupling: The constraints.
        labels: A number for each slice, that of the first slice of its set.
    """

    def __init__(self, coupling: Coupling, labels: Ids) -> None:
        self.coupling = coupling
        self.labels = labels
        self._why = np.full(labels.size, -1, np.int64)
        for index in reversed(range(len(coupling.stays))):
            self._why[labels[coupling.stays[index][0]]] = index

    @classmethod
    def of(cls, coupling: Coupling) -> Components:
        """Collect what goes together."""
        return cls(coupling, connected(coupling.places.count, coupling.pairs))

    def frozen(self, ids: Ids) -> Mask:
        """Say for each slice whether it must stay."""
        return np.asarray(self._why[self.labels[ids]] >= 0)

    def why(self, ids: Ids) -> str:
        """Return the first reason for which one of some slices stays."""
        found = self._why[self.labels[ids]]
        return self.coupling.stays[int(found[found >= 0].min())][1]


def connected(count: int, pairs: list[tuple[Ids, Ids]]) -> Ids:
    """Return for each of `count` numbers the smallest that pairs connect it with."""
    labels = np.arange(count, dtype=np.int64)
    if not pairs:
        return labels
    first = np.concatenate([one for one, _ in pairs])
    second = np.concatenate([other for _, other in pairs])
    while True:
        left, right = labels[first], labels[second]
        open_ends = left != right
        if not open_ends.any():
            return labels
        first, second = first[open_ends], second[open_ends]
        left, right = left[open_ends], right[open_ends]
        np.minimum.at(labels, np.maximum(left, right), np.minimum(left, right))
        _flatten(labels)


def _flatten(labels: Ids) -> None:
    """Let every number point to a number that points to itself."""
    while True:
        nearer = labels[labels]
        if np.array_equal(nearer, labels):
            return
        labels[:] = nearer
