"""What `smooth` knows of the inputs of layers, and the factors that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration import ChannelRange, statistics
from graphopt.calibration.row_sample import RowSample
from graphopt.calibration.statistics import Statistic
from graphopt.model.scopes import Scope
from graphopt.pipeline.contract import Context
from graphopt.rewrite.constants import add_constant, constant
from graphopt.rewrite.grid import grid_for
from graphopt.rewrite.names import Names
from graphopt.rewrite.scaling import Group, Part, Reader, Refused, Scaling

Wide = npt.NDArray[np.float64]
Narrow = npt.NDArray[np.float32]

_MOST_ROWS = 256


@dataclass(frozen=True)
class Smoothable:
    """Layers whose input channels are divided by the same factors.

    Args:
        count: The number of channels.
        readers: The layers.
        parts: All constants that change.
        insert_at: The input in front of which a Mul divides; None: the parts do.
    """

    count: int
    readers: tuple[Reader, ...]
    parts: tuple[Part, ...]
    insert_at: ir.Value | None = None

    @classmethod
    def of(cls, group: Group) -> Smoothable:
        """Return what a group of scaled channels is to its readers."""
        return cls(group.count, group.readers, group.parts)

    @property
    def first(self) -> ir.Node:
        """The first layer."""
        return self.readers[0].part.node


def inserted(
    scaling: Scaling, places: Mapping[tuple[ir.Node, int], str]
) -> Iterator[tuple[Smoothable, list[tuple[ir.Node, int]]]]:
    """Put layers together that read the same value, for a Mul in front of them.

    Yields:
        Such layers, and the inputs that their weights are.
    """
    together: dict[tuple[ir.Value, int, int], list[tuple[ir.Node, int]]] = {}
    for place in places:
        source = scaling.input_of(*place)
        if source is not None:
            key = (source.value, source.lane.ndim, id(place[0].graph))
            together.setdefault(key, []).append(place)
    for (value, *_), members in together.items():
        try:
            group = scaling.readers(members)
        except Refused:
            continue
        yield Smoothable(group.count, group.readers, group.parts, value), members


@dataclass(frozen=True)
class Inputs:
    """What the feeds say of the inputs of layers.

    Args:
        low: The smallest number of each channel.
        high: The largest one.
        rows: A sample of rows of each reader's input; empty where none was asked for.
    """

    low: Wide
    high: Wide
    rows: tuple[Narrow, ...]

    @property
    def largest(self) -> Wide:
        """The largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


class Watched:
    """Statistics of the inputs of layers, collected together.

    Args:
        scaling: The model.
        layers: Whose inputs are watched.
        context: The run.
        sample: Whether rows are sampled.
    """

    def __init__(
        self, scaling: Scaling, layers: Sequence[Smoothable], context: Context, *, sample: bool
    ) -> None:
        self._scaling = scaling
        readers = {(r.value, r.axis): r for one in layers for r in one.readers}
        width = sum(reader.channels.size for reader in readers.values())
        most = min(_MOST_ROWS, max(16, context.calibration_memory // (4 * max(1, width))))
        wanted: dict[str, list[Callable[[], Statistic]]] = {}
        for reader in readers.values():
            makers = wanted.setdefault(self._at(reader), [])
            makers.append(partial(ChannelRange, reader.axis))
            if sample:
                makers.append(partial(RowSample, reader.axis, most, context.seed))
        seen = statistics(scaling.model, wanted, context) if wanted else None
        self._missing = {} if seen is None else seen.missing
        self._found = {} if seen is None else seen.found

    def inputs(self, of: Smoothable) -> Inputs | str:
        """Return what is known of the inputs of layers, or why it is not known."""
        low, high = np.full(of.count, np.inf), np.full(of.count, -np.inf)
        rows: list[Narrow] = []
        for reader in of.readers:
            at = self._at(reader)
            if at in self._missing:
                return f"its input cannot be watched: {self._missing[at]}"
            for found in self._found[at]:
                if getattr(found, "axis", None) != reader.axis:
                    continue
                if isinstance(found, RowSample) and found.rows is not None:
                    rows.append(found.rows)
                if isinstance(found, ChannelRange):
                    if found.low is None or found.high is None:
                        return "no data reach it"
                    if found.low.size != reader.channels.size:
                        return "its input has another number of channels"
                    inside = reader.channels >= 0
                    np.minimum.at(low, reader.channels[inside], found.low[inside])
                    np.maximum.at(high, reader.channels[inside], found.high[inside])
        if np.isinf(low).all():
            return "no data reach it"
        absent = low > high
        low[absent] = high[absent] = 0.0
        return Inputs(low, high, tuple(rows))

    def _at(self, reader: Reader) -> str:
        owner = self._scaling.owner(reader.value)
        return owner.at(reader.value.name)


def factors(largest: Wide, weights: Wide, alpha: float) -> Wide:
    """Return s = max|X|^alpha / max|W|^(1 - alpha) by channel; 1 where either is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = largest**alpha / weights ** (1 - alpha)
    alive = (largest > 0) & (weights > 0) & np.isfinite(found) & (found > 0)
    return np.where(alive, found, 1.0)


def widths(of: Smoothable) -> Wide:
    """Return the largest magnitude of the weights that read each channel."""
    found = np.zeros(of.count)
    for reader in of.readers:
        magnitudes = np.abs(reader.part.tensor.numpy().astype(np.float32))
        np.maximum(found, reader.part.largest(of.count, magnitudes), out=found)
    return found


class Search:
    """Finds the alpha with which the outputs of layers are nearest to float on a sample.

    Args:
        of: The layers.
        inputs: What they read.
        activations: The type that inputs are rounded to.
        weights: The type of weights.

    Attributes:
        layers: Those whose outputs are compared, each with the rows it reads and its matrix.
    """

    def __init__(
        self, of: Smoothable, inputs: Inputs, activations: ir.DataType, weights: ir.DataType
    ) -> None:
        self._inputs, self._types = inputs, (activations, weights)
        self.layers = [
            (reader, rows, _matrix(reader))
            for reader, rows in zip(of.readers, inputs.rows, strict=True)
            if reader.part.node.op_type in ("MatMul", "Gemm")
        ]
        self._wanted = [rows @ matrix for _, rows, matrix in self.layers]

    def error(self, scales: Wide) -> float:
        """Return the squared error of the outputs, each layer's relative to its own power."""
        total = 0.0
        low, high = self._inputs.low / scales, self._inputs.high / scales
        grid = grid_for(low.min(), high.max(), self._types[0], symmetric=False)
        for (reader, rows, matrix), wanted in zip(self.layers, self._wanted, strict=True):
            by = np.where(reader.channels < 0, 1.0, scales[reader.channels]).astype(np.float32)
            scaled = matrix * by[:, None]
            reach = np.abs(scaled).max(axis=0)
            weight = grid_for(-reach, reach, self._types[1], symmetric=True, narrow=True, axis=1)
            found = grid.nearest(rows / by) @ weight.nearest(scaled)
            power = float(np.square(wanted, dtype=np.float64).sum())
            noise = float(np.square(found - wanted, dtype=np.float64).sum())
            total += noise / power if power else 0.0
        return total / len(self.layers)


def _matrix(reader: Reader) -> Narrow:
    """Return a weight as (channels, outputs)."""
    weight = reader.part.weight
    assert weight is not None
    stored = weight.tensor.numpy().astype(np.float32)
    axis = weight.uses[0].axes.input
    assert axis is not None
    return np.ascontiguousarray(np.moveaxis(stored, axis, 0).reshape(stored.shape[axis], -1))


def insert(of: Smoothable, scales: Wide, model: ir.Model, scope: Scope) -> None:
    """Put a Mul in front of layers that divides what they read."""
    value, reader = of.insert_at, of.readers[0]
    assert value is not None
    tensor = constant(of.first.inputs[reader.part.index])
    dtype = ir.DataType.FLOAT if tensor is None else tensor.dtype
    behind = -1 - reader.axis
    by = (1 / scales[reader.channels]).reshape(-1, *[1] * behind).astype(dtype.numpy())
    names = Names.of(model)
    name = names.fresh(f"{value.name}_smoothed")
    held = add_constant(
        of.first,
        names.fresh(f"{name}_factor"),
        ir.Tensor(by, dtype=dtype),
        in_function=scope.function is not None,
    )
    product = ir.Node("", "Mul", [value, held], name=name, num_outputs=1)
    product.outputs[0].name = name
    graph = of.first.graph
    assert graph is not None
    graph.insert_before(of.first, product)
    for one in of.readers:
        for index, read in enumerate(one.part.node.inputs):
            if read is value and index != one.part.index:
                one.part.node.replace_input_with(index, product.outputs[0])
