"""How much channels count, by the weights that write and read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import array, is_op
from graphopt.rewrite.layers import Role
from graphopt.rewrite.weights import Weight
from passes.prune.activations import Activation
from passes.prune.coupling import Components
from passes.prune.places import Ids, Place, Wide
from passes.threshold.source import Source, contiguous

Score = Literal["magnitude", "l1", "activation", "batchnorm"]


@dataclass
class Sums:
    """Scores by set of slices, collected weight by weight.

    Args:
        components: The sets.
        power: What magnitudes are raised to before they are added.
    """

    components: Components
    power: int
    _total: Wide = field(init=False)
    _axes: Wide = field(init=False)
    _live: dict[bool, Wide] = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing."""
        size = self.components.labels.size
        self._total, self._axes = np.zeros(size), np.zeros(size)
        # NaN: no weight writes (True) or reads (False) it.
        self._live = {side: np.full(size, np.nan) for side in (True, False)}

    def add(self, ids: Ids, sums: Wide, *, writes: bool) -> None:
        """Add what lies along one axis of a weight."""
        roots, where = np.unique(self.components.labels[ids], return_inverse=True)
        own, whole = np.bincount(where, weights=sums), float(sums.sum())
        self._total[roots] += own / whole if whole > 0 else 0.0
        self._axes[roots] += 1
        self._live[writes][roots] = np.fmax(self._live[writes][roots], own)

    def scores(self) -> Wide:
        """Return the mean share of all axes of weights; 0 where all that write or read are zero."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (self._total / self._axes) ** (1 / self.power)
        for live in self._live.values():
            found[live == 0] = 0.0
        return found


def by_weights(components: Components, weights: Iterable[Weight], score: Score) -> Wide:
    """Return the score of each set of slices; NaN where no weight has a say.

    Raises:
        GraphoptError: A weight holds NaN or infinity.
    """
    sums = Sums(components, 2 if score == "magnitude" else 1)
    for weight in weights:
        source = Source(weight)
        for place, axis, writes in axes_of(components, weight):
            ids = components.coupling.places.known(place, axis)
            if ids is not None and not components.frozen(ids).all():
                groups = components.coupling.places.groups(place, axis)
                sums.add(ids, _along(source, axis, groups, sums.power), writes=writes)
    return sums.scores()


def by_activations(components: Components, activations: Iterable[tuple[Activation, bool]]) -> Wide:
    """Return how much of what layers compute varies with each set; NaN where none reads it.

    Args:
        components: The sets.
        activations: What the layers read; and whether the mean of a channel does not count, as a
            bias of the layer makes up for it.
    """
    sums = Sums(components, 2)
    for one, centred in activations:
        energy = one.squares - np.square(one.means) if centred else one.squares
        squares = _along(one.source, one.at[1], one.groups, sums.power)
        sums.add(one.ids, np.maximum(energy, 0.0) * squares, writes=False)
    return sums.scores()


def axes_of(components: Components, weight: Weight) -> Iterator[tuple[Place, int, bool]]:
    """Yield where slices of a weight lie, and whether they write channels (or read them)."""
    sides: dict[int, bool] = {}
    for use in weight.uses:
        axes = use.axes
        # The rows of a table are picked; its columns are the channels that it writes.
        table = use.role is Role.EMBEDDING
        for axis, writes in ((None if table else axes.output, True), (axes.input, table)):
            if axis is not None:
                sides.setdefault(axis, writes)
    for place in components.coupling.places.of(weight.value):
        yield from ((place, axis, writes) for axis, writes in sides.items())


def _along(source: Source, axis: int, groups: int, power: int) -> Wide:
    """Add up powers of magnitudes for each index of an axis, and for each group of rows."""
    kept = (axis,) if groups == 1 else (0, axis)
    total = np.zeros([source.shape[one] for one in kept])
    others = tuple(one for one in range(len(source.shape)) if one not in kept)
    stored = source.stored()
    for where in contiguous(source.shape):
        powers = source.magnitudes(stored, where).astype(np.float64) ** power
        total[tuple(where[one] for one in kept)] += powers.sum(axis=others)
    if groups > 1:
        total = total.reshape(groups, -1, total.shape[1]).sum(axis=1)
    return total.reshape(-1)


def by_gammas(components: Components, nodes: Collection[ir.Node]) -> Wide:
    """Return the mean |gamma| of the BatchNormalizations behind each set; NaN where there are none.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV
    2017 (arXiv:1708.06519).
    """
    places = components.coupling.places
    total, count = np.zeros(components.labels.size), np.zeros(components.labels.size)
    for node in nodes:
        place = places.read(node, 1) if is_op(node, "BatchNormalization") else None
        gammas = None if place is None else array(place.value)
        ids = None if place is None else places.known(place, 0)
        if gammas is not None and ids is not None:
            roots = components.labels[ids]
            np.add.at(total, roots, np.abs(gammas.astype(np.float64)))
            np.add.at(count, roots, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)
