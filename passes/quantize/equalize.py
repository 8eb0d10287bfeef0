"""`equalize`: cross-layer equalization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.rewrite.names import Names
from graphopt.rewrite.scaling import Group, Part, Refused, Scaling
from graphopt.rewrite.selection import Globs, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.rescale import Rescaling, rescaling
from passes.quantize.smoothing import Smoothable, Watched

Wide = npt.NDArray[np.float64]

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SETTLED = 1e-3
"""Scales that move less than this do not move a quantized weight."""

_HEADROOM = 4.0
"""How much wider than on the feeds a channel may be on other data.

Channels that seldom fire have been seen to be: with 1, a ResNet-20 loses 1.5 dB on other data.
"""


@dataclass(frozen=True)
class Equalize(Pass):
    """Make the channels of neighbouring layers equally wide, so that one scale fits them all.

    Where a layer's output channel c only reaches other layers through operators with f(x / s) =
    f(x) / s (Relu, LeakyRelu, PRelu, pools, Pad with 0, Transpose, Reshape, Add and Concat of such
    channels, the value side of attention), it can be divided by any s_c > 0 if the layers that read
    it multiply by s_c. With r1_c the largest magnitude of the weights that write c, and r2_c of
    those that read it,

        s_c = sqrt(r1_c / r2_c)

    makes both sqrt(r1_c r2_c) (Nagel et al., ICCV 2019, arXiv:1906.04721, equations 8 to 11).
    Layers that belong to several pairs (a depthwise convolution reads one and writes the next) are
    taken in turns until no scale moves. Channels that are zero on either side stay. With data, no
    channel that a layer reads becomes wider than a quarter of the widest one if it was not before:
    a channel of tiny weights that seldom fires would spoil the scale of all others. Outputs stay
    equal up to the rounding of the scaled weights; with `powers_of_two` the weights are scaled
    without any rounding.

    All readers and writers of a channel must be able to follow, residual connections included: a
    Clip with an upper bound (Relu6), Sigmoid, Gelu, a normalization or an output of the model in
    between is declined with its name, as are weights that are quantized, shared with a layer
    outside, or overridable.

    Args:
        include: Globs on layers whose outputs are scaled: names of nodes, of outputs, of weights.
        exclude: Globs that keep layers out.
        op_types: Only outputs of these operators; None: of all layers.
        iterations: The most rounds over all pairs.
        powers_of_two: Round scales to powers of two.

    Raises:
        GraphoptError: A parameter is out of range.
    """

    name: ClassVar[str] = "equalize"
    effect: ClassVar[Effect] = Effect.EXACT

    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None
    iterations: int = 40
    powers_of_two: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        if isinstance(self.iterations, bool) or not 1 <= self.iterations <= 10_000:
            raise GraphoptError(
                f"equalize: iterations must be from 1 to 10000, not {self.iterations}"
            )

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per set of channels that is scaled."""
        try:
            groups: list[Group] = []
            scaling = Scaling(model)
            for found in self._groups(scaling):
                if isinstance(found, Declined):
                    yield found
                else:
                    groups.append(found)
            scales = self._settle(groups, _floors(groups, scaling, context), context)
            for group, by in zip(groups, scales, strict=True):
                yield from self._rewrite(model, group, by)
        finally:
            Shapes.forget(model)
            Names.forget(model)

    def _groups(self, scaling: Scaling) -> Iterator[Group | Declined]:
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        written: set[tuple[ir.Node, int]] = set()
        for source in scaling.sources():
            chosen = source.node.op_type in _LAYERS and selects(
                source.node, source.scope, self.include, self.exclude, op_types
            )
            if not chosen or any((source.node, index) in written for index in (0, 1)):
                continue
            try:
                group = scaling.group(source)
            except Refused as refusal:
                yield Declined(source.at, f"its channels stay: {refusal}")
                continue
            kept = [p for p in group.writers if self._excludes(p, scaling)]
            if kept:
                yield Declined(source.at, f"its channels stay: {scaling.at(kept[0].node)} does")
                continue
            written |= {(p.node, p.index) for p in group.writers if (p.lane >= 0).all()}
            if group.readers:
                yield group

    def _excludes(self, part: Part, scaling: Scaling) -> bool:
        scope = scaling.owners[id(part.node.graph)]
        return not selects(part.node, scope, "*", self.exclude)

    def _settle(
        self, groups: Sequence[Group], floors: Sequence[Wide], context: Context
    ) -> list[Wide]:
        """Find the scales of groups, those that share weights with each other together."""
        scales = [np.ones(group.count) for group in groups]
        for done, places in enumerate(_connected(groups)):
            context.progress("equalize", done, None)
            self._settle_together(groups, floors, places, scales)
        if self.powers_of_two:
            scales = [np.exp2(np.rint(np.log2(by))) for by in scales]
        return scales

    def _settle_together(
        self,
        groups: Sequence[Group],
        floors: Sequence[Wide],
        places: list[int],
        scales: list[Wide],
    ) -> None:
        """Take groups in turns until their scales stay."""
        state, moving = _Magnitudes(), places
        for _ in range(self.iterations):
            moved = [
                place
                for place in moving
                if _step(state, groups[place], scales[place], floors[place])
            ]
            changed = set[int]().union(*(_weights(groups[place]) for place in moved))
            moving = [place for place in places if _weights(groups[place]) & changed]
            if not moving:
                return

    def _rewrite(self, model: ir.Model, group: Group, scales: Wide) -> Iterator[Rewrite | Declined]:
        at = group.source.at
        if (scales == 1).all():
            return
        found = rescaling(group.parts, scales)
        if not isinstance(found, Rescaling):
            yield Declined(at, f"its channels stay: {found}")
            return
        layers = len({part.node for part in group.parts if part.weight is not None})
        low, high = float(scales.min()), float(scales.max())
        yield Rewrite(
            at,
            f"{group.count} channels of {layers} layers scaled by {low:.3g} to {high:.3g}",
            apply=lambda: found.apply(model, group.source.scope),
            details={"channels": group.count, "layers": layers, "least": low, "largest": high},
        )


def _floors(groups: Sequence[Group], scaling: Scaling, context: Context) -> list[Wide]:
    """Return the least scales with which no channel gets too wide; 0 without data."""
    floors = [np.zeros(group.count) for group in groups]
    if context.feeds is None:
        return floors
    layers = [Smoothable.of(group) for group in groups]
    watched = Watched(scaling, layers, context, sample=False)
    for floor, layer in zip(floors, layers, strict=True):
        inputs = watched.inputs(layer)
        if not isinstance(inputs, str) and inputs.largest.any():
            floor[:] = np.minimum(_HEADROOM * inputs.largest / inputs.largest.max(), 1.0)
    return floors


def _step(state: _Magnitudes, group: Group, scales: Wide, floor: Wide) -> bool:
    """Move the scales of one group to where both sides are equally wide."""
    written, read = np.zeros(group.count), np.zeros(group.count)
    weights = {id(part.weight.value): part for part in group.parts if part.weight is not None}
    for part in weights.values():
        side = written if part.power < 0 else read
        np.maximum(side, state.largest(part, group.count), out=side)
    with np.errstate(divide="ignore", invalid="ignore"):
        by = np.sqrt(written / read)
    by = np.where(np.isfinite(by) & (by > 0), np.maximum(by, floor / scales), 1.0)
    if np.max(np.abs(np.log(by)), initial=0.0) < _SETTLED:
        return False
    scales *= by
    for part in weights.values():
        state.scale(part, by)
    return True


def _connected(groups: Sequence[Group]) -> Iterator[list[int]]:
    """Part groups into sets that share no weight, in order."""
    sets: list[tuple[list[int], set[int]]] = []
    for place, group in enumerate(groups):
        places, weights = [place], _weights(group)
        apart = []
        for other in sets:
            if other[1] & weights:
                places, weights = [*other[0], *places], weights | other[1]
            else:
                apart.append(other)
        sets = [*apart, (places, weights)]
    yield from (places for places, _ in sets)


def _weights(group: Group) -> set[int]:
    return {id(part.weight.value) for part in group.parts if part.weight is not None}


class _Magnitudes:
    """Magnitudes of weights under the scales so far, the places of kernels reduced."""

    def __init__(self) -> None:
        self._held: dict[int, npt.NDArray[np.float32]] = {}

    def largest(self, part: Part, count: int) -> Wide:
        """Return the largest magnitude of each channel."""
        return part.largest(count, self._of(part))

    def scale(self, part: Part, scales: Wide) -> None:
        """Scale what is remembered."""
        assert part.weight is not None
        scaled = self._of(part) * part.factor(scales)
        self._held[id(part.weight.value)] = scaled.astype(np.float32)

    def _of(self, part: Part) -> npt.NDArray[np.float32]:
        assert part.weight is not None
        key = id(part.weight.value)
        if key not in self._held:
            axes = part.weight.uses[0].axes
            stored = np.abs(part.weight.tensor.numpy().astype(np.float32))
            others = tuple(a for a in range(stored.ndim) if a not in (axes.input, axes.output))
            self._held[key] = np.max(stored, axis=others, keepdims=True, initial=0.0)
        return self._held[key]
