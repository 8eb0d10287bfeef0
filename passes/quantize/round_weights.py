"""`round_weights`: weights are put on a grid, with error feedback."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration import SecondMoments, collect
from graphopt.errors import GraphoptError
from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Context, Declined, Detail, Effect, Pass, Rewrite
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.selection import Globs, selects
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.weights import Unusable, Weight, weights
from passes.quantize.feedback import Columns, Matrix, Rounding, loss
from passes.quantize.products import Product, product
from passes.quantize.weights.sharing import (
    GRID,
    Granularity,
    Sharing,
    grid_of_range,
    sharing,
)

__all__ = ["RoundWeights"]

Dtype = Literal["int8", "uint8", "int4", "uint4", "int16", "uint16"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round weights to the grid that they will be stored on, so that layers compute the same.

    Weights of one sum are not rounded apart: what one loses, the others make good, as far as their
    inputs go together on the feeds. With X the inputs of a layer and W its weight, columns are
    rounded one after the other, and each time those that are left move to where they minimize

        |(W - Q) X|^2

    which takes H = X X^T only, streamed from the feeds (Frantar et al., GPTQ, ICLR 2023,
    arXiv:2210.17323). The model stays float: its weights lie on the grid, which is left in the
    value's meta, `graphopt.grid`, for the pass that stores them:

        round_weights(dtype="int4") | quantize_weights(dtype="int4")

    Grids are those of `quantize_weights` with the same dtype, granularity and block_size. MatMul,
    Gemm, and Conv with groups (H is that of its patches). A weight that several layers read is
    rounded for all of them. Inputs that are always zero, and layers that never run, leave nothing
    to choose: their weights go to the nearest number. No weight does worse on the feeds than the
    nearest numbers do. H is held for as many layers at a time as `calibration_memory` allows.

    Args:
        dtype: The integers.
        granularity: "tensor", "channel" or "block"; None: "block" for 4 bits, else "channel".
        block_size: Of "block", from 16 to 256.
        symmetric: Whether 0 is stored as the middle of the type.
        damping: Share of the mean of H's diagonal that is added to it.
        ordered: Whether the weights with the largest inputs are rounded first.
        samples: The most samples that are run.
        include: Globs on names of layers or weights, alone or as `scope/name`.
        exclude: Globs that keep layers or weights out.
        op_types: Only weights of these operators; None: of all.

    Raises:
        GraphoptError: A parameter is out of range, or there are no feeds.
    """

    name: ClassVar[str] = "round_weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    dtype: Dtype = "int8"
    granularity: Granularity | None = None
    block_size: int = 32
    symmetric: bool = True
    damping: float = 0.01
    ordered: bool = True
    samples: int = 512
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name, choices in (
            ("dtype", get_args(Dtype)),
            ("granularity", (None, *get_args(Granularity))),
        ):
            chosen = getattr(self, name)
            if chosen not in choices:
                said = ", ".join(str(choice) for choice in choices)
                raise GraphoptError(f"round_weights: {name} must be one of {said}, not {chosen!r}")
        if not 16 <= self.block_size <= 256:
            raise GraphoptError(
                f"round_weights: block_size must be from 16 to 256, not {self.block_size}"
            )
        if not (0 < self.damping <= 1 and math.isfinite(self.damping)):
            raise GraphoptError(
                f"round_weights: damping must be above 0 and at most 1, not {self.damping}"
            )
        if self.samples < 1:
            raise GraphoptError(f"round_weights: samples must be positive, not {self.samples}")

    @property
    def _integers(self) -> ir.DataType:
        return ir.DataType[self.dtype.upper()]

    @property
    def _granularity(self) -> Granularity:
        return self.granularity or ("block" if self._integers.bitwidth == 4 else "channel")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per weight."""
        if context.feeds is None:
            raise GraphoptError(
                "round_weights needs data", fix="give calibration samples with --data"
            )
        try:
            layers: list[_Layer] = []
            for found in self._layers(model, context.calibration_memory):
                if isinstance(found, Declined):
                    yield found
                else:
                    layers.append(found)
            done = 0
            for some in _together(layers, context.calibration_memory):
                missing = _watch(model, some, context, self.samples)
                for layer in some:
                    context.progress("round_weights", done, len(layers))
                    done += 1
                    yield self._rounded(layer, missing)
                    layer.moments.clear()
        finally:
            Shapes.forget(model)

    def _layers(self, model: ir.Model, memory: int) -> Iterator[_Layer | Declined]:
        owners = {id(scope.graph): scope for scope in scopes(model)}
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        for weight in weights(model):
            if isinstance(weight, Unusable):
                yield Declined(weight.at, weight.why)
                continue
            if not any(
                selects(use.node, use.scope, self.include, self.exclude, op_types)
                for use in weight.uses
            ):
                continue
            layer = _layer(weight, owners)
            if isinstance(layer, str):
                yield Declined(weight.at, layer)
            elif layer.nbytes > memory:
                yield Declined(
                    weight.at,
                    f"the moments of its inputs take {layer.nbytes} bytes, more than the"
                    f" {memory} of --calibration-memory",
                )
            else:
                yield layer

    def _rounded(self, layer: _Layer, missing: Mapping[str, str]) -> Rewrite | Declined:
        weight = layer.weight
        for at in layer.watched:
            if at in missing:
                return Declined(weight.at, f"its input cannot be watched: {missing[at]}")
        shared = sharing(weight, self._granularity, self.block_size)
        try:
            rounded = self._solve(layer, shared)
        except ValueError:
            return Declined(weight.at, "it holds NaN or infinity")
        words = f"{self.dtype} by {self._granularity}"
        details: dict[str, Detail] = {"weight": weight.at, "gain_db": rounded.gain_db}
        if rounded.gain_db is None:
            why = f"{words}: nearest numbers, as no data reach it"
        else:
            why = f"{words}: output error {-rounded.gain_db:+.1f} dB against nearest numbers"
        return Rewrite(weight.at, why, partial(rounded.apply, weight), details)

    def _solve(self, layer: _Layer, shared: Sharing) -> _Rounded:
        weight, first = layer.weight, layer.products[0]
        stored = weight.tensor.numpy()
        grid = grid_of_range(
            stored, shared, self._integers, symmetric=self.symmetric, scale_dtype=weight.dtype
        )
        nearest = grid.nearest(stored)
        moments = layer.total()
        if moments is None:
            return _Rounded(grid, nearest, None)
        scale, zero = grid.spread(stored.shape)
        scales = first.matrices(scale)
        zeros = None if zero is None else first.matrices(zero)
        wide, near = first.matrices(stored.astype(np.float64)), first.matrices(nearest)
        result = np.empty_like(wide)
        rounding, before, after = Rounding(self.damping, self.ordered), 0.0, 0.0
        for group, h in enumerate(moments):
            columns = Columns(grid, scales[group], None if zeros is None else zeros[group])
            found = rounding.round(wide[group], columns, h)
            losses = [loss(wide[group] - one, h) for one in (near[group], found)]
            result[group] = found if losses[1] < losses[0] else near[group]
            before, after = before + losses[0], after + min(losses)
        gain = 10 * math.log10(before / after) if after > 0 and before > 0 else 0.0
        # Back through the grid: sums in double precision are not exactly on it.
        final = grid.nearest(first.stored(result).astype(stored.dtype))
        return _Rounded(grid, final, gain)


@dataclass(frozen=True)
class _Rounded:
    """A weight on its grid.

    Args:
        grid: The grid.
        numbers: The real numbers.
        gain_db: How much less output error it has than the nearest numbers; None: not known.
    """

    grid: Grid
    numbers: npt.NDArray[Any]
    gain_db: float | None

    def apply(self, weight: Weight) -> None:
        """Let the layers read it, and leave the grid for whoever stores it."""
        dtype = weight.dtype
        tensor = ir.Tensor(self.numbers.astype(dtype.numpy()), dtype=dtype, name=weight.tensor.name)
        weight.replace(tensor)
        weight.value.meta[GRID] = self.grid


@dataclass(frozen=True)
class _Layer:
    """A weight with all that multiply it.

    Args:
        weight: The weight.
        products: How its layers multiply it.
        watched: The addresses of what they multiply it with.
        moments: What was seen, by address and what was asked for.
    """

    weight: Weight
    products: tuple[Product, ...]
    watched: tuple[str, ...]
    moments: dict[tuple[str, str], SecondMoments] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """What its moments take."""
        return sum(p.groups * p.length**2 * 8 for p in dict.fromkeys(self.products))

    def total(self) -> Matrix | None:
        """Return the moments of all layers together, (groups, inputs, inputs)."""
        total: Matrix | None = None
        for at, one in zip(self.watched, self.products, strict=True):
            found = self.moments[at, repr(one.moments())]
            if found.count:
                total = found.sums if total is None else total + found.sums
        return total


def _layer(weight: Weight, owners: Mapping[int, Scope]) -> _Layer | str:
    if weight.quantization is not None or weight.dtype not in _FLOATS:
        return f"it is quantized, or of type {weight.dtype.name}"
    if weight.tensor.size == 0:
        return "it is empty"
    products, watched = [], []
    for use in weight.uses:
        found = product(weight, use)
        if isinstance(found, str):
            return found
        graph = found.activation.graph
        scope = None if graph is None else owners.get(id(graph))
        if scope is None or found.activation.is_initializer():
            return "what it is multiplied with is no activation"
        products.append(found)
        watched.append(scope.at(found.activation.name))
    first = products[0]
    if any((one.groups, one.output) != (first.groups, first.output) for one in products):
        return "its layers read it in different ways"
    return _Layer(weight, tuple(products), tuple(watched))


def _together(layers: Sequence[_Layer], memory: int) -> Iterator[list[_Layer]]:
    """Distribute layers over runs whose moments fit the memory; equal moments count once."""
    some: list[_Layer] = []
    held: dict[tuple[str, str], int] = {}
    for layer in layers:
        new = {
            (at, repr(one.moments())): one.groups * one.length**2 * 8
            for at, one in zip(layer.watched, layer.products, strict=True)
        }
        if some and sum((held | new).values()) > memory:
            yield some
            some, held = [], {}
        some.append(layer)
        held |= new
    if some:
        yield some


def _watch(
    model: ir.Model, layers: Sequence[_Layer], context: Context, samples: int
) -> dict[str, str]:
    """Collect the moments of some layers; return why values could not be watched."""
    assert context.feeds is not None
    found: dict[tuple[str, str], SecondMoments] = {}
    watch: dict[str, list[SecondMoments]] = {}
    for layer in layers:
        for at, one in zip(layer.watched, layer.products, strict=True):
            statistic = one.moments()
            key = at, repr(statistic)
            if key not in found:
                found[key] = statistic
                watch.setdefault(at, []).append(statistic)
            layer.moments[key] = found[key]
    return collect(
        model,
        watch,
        context.feeds.take(samples),
        providers=context.providers,
        memory=context.calibration_memory,
        progress=context.progress,
    )
