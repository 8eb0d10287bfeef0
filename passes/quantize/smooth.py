"""`smooth`: outliers of activations move into the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Detail, Effect, Pass, Rewrite
from graphopt.rewrite.names import Names
from graphopt.rewrite.scaling import Refused, Scaling
from graphopt.rewrite.selection import Globs, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.rescale import Rescaling, rescaling
from passes.quantize.smoothing import (
    Inputs,
    Search,
    Smoothable,
    Watched,
    Wide,
    factors,
    insert,
    inserted,
    widths,
)

__all__ = ["Smooth"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_TYPES = ("uint8", "int8", "uint16", "int16", "uint4", "int4")
_GRID = tuple(step / 20 for step in range(2, 20))


@dataclass(frozen=True)
class Smooth(Pass):
    """Divide the input channels of layers by factors, and multiply the weights by them.

    A few channels of a transformer's activations are a hundred times as wide as the others, and
    one scale for all of them leaves the others a few steps. Channel j of a layer's input X is
    divided by

        s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

    and row j of its weight W is multiplied by s_j, with max|X_j| over the feeds and max|W_j| over
    all layers that read the same input (Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438,
    equation 4). The division costs nothing: it goes into the scale and shift of the normalization
    in front (also one that is written out in primitive operators), into a Mul or Add, or into the
    output channels of a layer in front, through all that `equalize` knows to pass. Channels that
    are zero stay. Outputs stay equal up to the rounding of the scaled constants.

    All readers of an input must follow. Where one cannot (the residual Add behind the normalization
    of a BERT), the layers are declined, or with `insert` get a Mul of their own in front.

    Args:
        alpha: How much goes into the weights, 0 to 1; None: for each set of layers that number of
            0.1, 0.15, ..., 0.95 with which their outputs on a sample of their inputs are nearest
            to float when input and weights are rounded; where none is better than leaving them
            alone, they are.
        insert: Whether a Mul may be inserted.
        activations: The type that inputs are rounded to in the search, one scale for all.
        weights: The type of weights in the search, one scale for each output channel.
        include: Globs on layers: names of nodes, of outputs, of weights.
        exclude: Globs that keep layers out.
        op_types: Operators of the layers.

    Raises:
        GraphoptError: A parameter is out of range, or there are no feeds.
    """

    name: ClassVar[str] = "smooth"
    effect: ClassVar[Effect] = Effect.EXACT

    alpha: float | None = None
    insert: bool = False
    activations: str = "uint8"
    weights: str = "int8"
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] = ("MatMul", "Gemm")

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise GraphoptError(f"smooth: alpha must be from 0 to 1, not {self.alpha}")
        for name in ("activations", "weights"):
            if getattr(self, name) not in _TYPES:
                raise GraphoptError(
                    f"smooth: {name} must be one of {', '.join(_TYPES)},"
                    f" not {getattr(self, name)!r}"
                )

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per set of layers that is smoothed."""
        if context.feeds is None:
            raise GraphoptError("smooth needs data", fix="give calibration samples with --data")
        try:
            yield from self._smooth(model, context)
        finally:
            Shapes.forget(model)
            Names.forget(model)

    def _smooth(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        scaling = Scaling(model)
        found: list[Smoothable] = []
        for one in self._candidates(scaling):
            if isinstance(one, Declined):
                yield one
            else:
                found.append(one)
        watched = Watched(scaling, found, context, sample=self.alpha is None)
        for done, one in enumerate(found):
            context.progress("smooth", done, len(found))
            yield self._decided(one, watched.inputs(one), scaling)

    def _decided(
        self, one: Smoothable, inputs: Inputs | str, scaling: Scaling
    ) -> Rewrite | Declined:
        at = scaling.at(one.first)
        if isinstance(inputs, str):
            return Declined(at, f"its input stays: {inputs}")
        try:
            scales, alpha, gain = self._scales(one, inputs)
        except Refused as refusal:
            return Declined(at, f"its input stays: {refusal}")
        if scales is None:
            return Declined(at, "its input stays: no alpha brings its outputs nearer to float")
        changed = rescaling(one.parts, scales)
        if not isinstance(changed, Rescaling):
            return Declined(at, f"its input stays: {changed}")
        low, high = float(scales.min()), float(scales.max())
        details: dict[str, Detail] = {
            "alpha": alpha,
            "layers": len(one.readers),
            "least": low,
            "largest": high,
        }
        why = f"alpha {alpha:.2f}: {one.count} channels divided by {low:.3g} to {high:.3g}"
        if gain is not None:
            details["gain_db"] = gain
            why += f", {gain:+.1f} dB at the outputs of {len(one.readers)} layers"

        def apply() -> None:
            scope = scaling.owners[id(one.first.graph)]
            changed.apply(scaling.model, scope)
            if one.insert_at is not None:
                insert(one, scales, scaling.model, scope)

        return Rewrite(at, why, apply, details)

    def _scales(self, one: Smoothable, inputs: Inputs) -> tuple[Wide | None, float, float | None]:
        """Return the factors, alpha, and how many dB it brings on the sample."""
        largest, weights = inputs.largest, widths(one)
        if self.alpha is not None:
            return factors(largest, weights, self.alpha), self.alpha, None
        if any(part.power < 0 and part.node.op_type in _CONVOLUTIONS for part in one.parts):
            # What is rounded then is the convolution's output, which the sample does not show.
            raise Refused("a convolution writes it, which equalize looks at; or give alpha")
        types = ir.DataType[self.activations.upper()], ir.DataType[self.weights.upper()]
        search = Search(one, inputs, *types)
        if not search.layers:
            raise Refused("alpha has to be given for layers other than MatMul and Gemm")
        before = search.error(np.ones(one.count))
        tried = [(search.error(factors(largest, weights, alpha)), alpha) for alpha in _GRID]
        error, alpha = min(tried)
        if not error < before:
            return None, alpha, None
        gain = 10 * np.log10(before / error) if error else np.inf
        return factors(largest, weights, alpha), alpha, float(gain)

    def _candidates(self, scaling: Scaling) -> Iterator[Smoothable | Declined]:
        """Find the layers that can be smoothed together, and why others cannot."""
        wanted = self._wanted(scaling)
        refused: dict[tuple[ir.Node, int], str] = {}
        while wanted:
            place = next(iter(wanted))
            source = scaling.input_of(*place)
            try:
                if source is None:
                    raise Refused("it keeps a state, or its input is not known")
                group = scaling.group(source)
            except Refused as refusal:
                refused[place] = str(refusal)
                wanted.pop(place)
                continue
            yield Smoothable.of(group)
            for reader in group.readers:
                wanted.pop((reader.part.node, reader.part.index), None)
        if self.insert:
            for one, members in inserted(scaling, refused):
                yield one
                for member in members:
                    refused.pop(member)
        for (node, _), why in refused.items():
            yield Declined(scaling.at(node), f"its input stays: {why}")

    def _wanted(self, scaling: Scaling) -> dict[tuple[ir.Node, int], None]:
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        wanted: dict[tuple[ir.Node, int], None] = {}
        for node, index in scaling.weights.all():
            scope = scaling.owners[id(node.graph)]
            if selects(node, scope, self.include, self.exclude, op_types):
                wanted[node, index] = None
        return wanted
