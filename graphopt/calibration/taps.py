"""A model that returns inner values of all its scopes, or what statistics need of them."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration.lifting import Join, Lifter, Part, UnreachableError
from graphopt.calibration.sentinels import LIMIT, limit_of
from graphopt.calibration.statistics import Array
from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.shapes import Shapes


class Form(enum.Enum):
    """What of a value is returned."""

    NUMBERS = "numbers"
    """All of its numbers; flat where it comes from a body."""

    ARRAYS = "arrays"
    """The value as it is, once for each time that it was computed."""

    EXTENT = "extent"
    """Its smallest and its largest number, and its sum, which says whether all are numbers."""

    SHAPE = "shape"
    """Its shape."""


_IN_GRAPH = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
_LIFTED = frozenset({ir.DataType.FLOAT16, *_IN_GRAPH})
_WIDE = frozenset({ir.DataType.INT32, ir.DataType.UINT32, ir.DataType.INT64, ir.DataType.UINT64})


@dataclass(frozen=True)
class Tap:
    """Where in the outputs of a run a value is found.

    Args:
        form: What is returned of it.
        lifted: Whether it comes from a body or function.
        limit: The largest magnitude that is data.
        ways: The names of outputs: one tuple for each call of a function that it stands in.
    """

    form: Form
    lifted: bool
    limit: float
    ways: tuple[tuple[str, ...], ...]

    def arrays(self, outputs: Mapping[str, Any]) -> Iterator[Array]:
        """Yield the value each time that it was computed, or flat pieces of it."""
        for names in self.ways:
            if len(names) == 1:
                yield outputs[names[0]]
            else:
                yield from _pieces(*(outputs[name] for name in names))

    def let_go(self, outputs: dict[str, Any]) -> None:
        """Drop the value from the outputs: the next run may need its memory."""
        for name in itertools.chain(*self.ways):
            outputs.pop(name, None)

    def extents(self, outputs: Mapping[str, Any]) -> Iterator[tuple[float, float, bool]]:
        """Yield low, high, and whether these are numbers of data and all there is to say."""
        for low, high, total in ([outputs[name] for name in names] for names in self.ways):
            ends = float(low.reshape(())), float(high.reshape(()))
            if ends[0] > ends[1]:
                continue
            plain = -self.limit <= ends[0] and ends[1] <= self.limit and np.isfinite(total).all()
            yield *ends, bool(plain)

    def size(self, outputs: Mapping[str, Any]) -> int:
        """The number of elements, of a tap of shapes."""
        total = 0
        for shape, ranks in ([outputs[name] for name in names] for names in self.ways):
            ends = np.concatenate([[0], np.cumsum(ranks)])
            total += sum(
                int(np.prod(shape[start:stop])) for start, stop in itertools.pairwise(ends)
            )
        return total


def _pieces(flat: Array, shapes: Array, ranks: Array) -> Iterator[Array]:
    at = start = 0
    for rank in ranks:
        shape = tuple(int(size) for size in shapes[at : at + rank])
        at += int(rank)
        stop = start + int(np.prod(shape))
        yield flat[start:stop].reshape(shape)
        start = stop


@dataclass(frozen=True)
class Tapped:
    """A model with taps.

    Args:
        model: The model; it returns nothing but taps.
        taps: By address.
        missing: Why others have none, by address.
    """

    model: ir.Model
    taps: Mapping[str, Tap]
    missing: Mapping[str, str] = field(default_factory=dict)


class Places:
    """The values of a model by address, and what is known of their types.

    Args:
        model: Stays as it is.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.shapes = Shapes.of(model)
        self.values: dict[str, tuple[Scope, ir.Value]] = {}
        # The symbols of the first axis of inputs.
        self._batches = {
            str(value.shape[0])
            for value in model.graph.inputs
            if value.shape and isinstance(value.shape[0], ir.SymbolicDim) and value.shape[0].value
        }
        for scope in scopes(model):
            for value in _values(scope):
                self.values.setdefault(scope.at(value.name), (scope, value))
            for name, value in scope.graph.initializers.items():
                self.values.setdefault(scope.at(name), (scope, value))

    def objection(self, address: str) -> str | None:
        """Say why a value cannot be watched, if that is known beforehand."""
        _, value = self.values[address]
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            return "it is no tensor"
        producer = value.producer()
        constant = producer is not None and producer.op_type == "Constant"
        if constant or (value.is_initializer() and not value.is_graph_input()):
            return "it is a constant"
        return "it holds text" if self.dtype(address) == ir.DataType.STRING else None

    def dtype(self, address: str) -> ir.DataType | None:
        """The element type of a value, where it is known."""
        return self.shapes.dtype(self.values[address][1])

    def size(self, address: str, samples: int) -> int | None:
        """The bytes of a value for one sample, where nothing but the batch is dynamic."""
        scope, value = self.values[address]
        shape, dtype = self.shapes.shape(value), self.dtype(address)
        if shape is None or dtype is None or scope.name:
            return None
        sizes = [1 if size in self._batches else size for size in shape]
        if any(not isinstance(size, int) for size in sizes):
            return None
        elements = math.prod(size for size in sizes if isinstance(size, int))
        apart = 1 if self._batches & set(shape) else samples
        return math.ceil(elements * dtype.itemsize / apart)

    def sizes_on(
        self, samples: Mapping[str, Array], addresses: Iterable[str], count: int
    ) -> dict[str, int]:
        """The bytes of values for one sample, where the shapes of what is fed tell all of theirs.

        Args:
            samples: What is fed.
            addresses: Of values.
            count: How many samples that is.
        """
        model = self.model.clone()
        for value in model.graph.inputs:
            if value.name and value.name in samples:
                value.shape = ir.Shape(samples[value.name].shape)
        shapes = Shapes(model)
        computed = {value.name: value for node in model.graph for value in node.outputs}
        found = {}
        for address in addresses:
            scope, value = self.values[address]
            dtype = self.dtype(address)
            sizes = None if scope.name else shapes.static_shape(computed.get(value.name))
            if sizes is not None and dtype is not None:
                found[address] = math.ceil(math.prod(sizes) * dtype.itemsize / count)
        return found

    def reduces(self, address: str) -> bool:
        """Whether the extent of a value can be taken inside of the graph."""
        scope, _ = self.values[address]
        return bool(scope.name) or self.dtype(address) in _IN_GRAPH


def _values(scope: Scope) -> Iterator[ir.Value]:
    yield from (value for value in scope.graph.inputs if value.name)
    for node in scope.graph:
        yield from (value for value in node.outputs if value.name)


def tapped(places: Places, forms: Mapping[str, Form]) -> Tapped:
    """Copy a model, and let the copy return what is asked for.

    Args:
        places: Its model stays as it is, and the tensors are shared.
        forms: What to return, by address: of inner values and outputs of the main graph, and of
            any value of bodies and functions.
    """
    model = places.model.clone()
    lifter = Lifter(model)
    by_name = {scope.name: scope for scope in lifter.scopes()}
    taps: dict[str, Tap] = {}
    missing: dict[str, str] = {}
    position = {address: number for number, address in enumerate(places.values)}
    # ONNX Runtime starts from the last node that nobody reads: with extents in reverse order, each
    # is taken as soon as its value is there, and the value is let go. In order, all would be held.
    for address in sorted(forms, key=position.__getitem__, reverse=True):
        form = forms[address]
        outer, known = places.values[address]
        scope = by_name[outer.name]
        value = lifter.value(scope, known.name or "")
        dtype = places.dtype(address)
        try:
            ways = _ways(lifter, scope, value, dtype, form)
        except UnreachableError as error:
            missing[address] = str(error)
            continue
        limit = LIMIT if dtype is None else limit_of(np.dtype(dtype.numpy()))
        taps[address] = Tap(form, bool(scope.name), limit, ways)
    returned = {name for tap in taps.values() for way in tap.ways for name in way}
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in sorted(returned))
    return Tapped(model, taps, missing)


def _ways(
    lifter: Lifter, scope: Scope, value: ir.Value, dtype: ir.DataType | None, form: Form
) -> tuple[tuple[str, ...], ...]:
    graph = scope.graph
    if form is Form.SHAPE:
        return lifter.lift(scope, _shape(lifter, graph, value))
    if not scope.name and form is not Form.EXTENT:
        return ((value.name or "",),)
    if scope.name:
        value, dtype = _typed(lifter, graph, value, dtype)
    if dtype is None:
        raise ValueError("the extent of a value of unknown type")
    if form is Form.EXTENT:
        kinds = {"ReduceMin": Join.MIN, "ReduceMax": Join.MAX, "ReduceSum": Join.SUM}
        flat = lifter.flat(graph, value, dtype) if scope.name else value
        parts = [
            Part(lifter.add(graph, op, [flat], dtype, keepdims=int(bool(scope.name))), join, dtype)
            for op, join in kinds.items()
        ]
        return lifter.lift(scope, parts)
    numbers = Part(lifter.flat(graph, value, dtype), Join.CONCAT, dtype)
    further = _shape(lifter, graph, value) if form is Form.ARRAYS else ()
    return lifter.lift(scope, (numbers, *further))


def _typed(
    lifter: Lifter, graph: ir.Graph, value: ir.Value, dtype: ir.DataType | None
) -> tuple[ir.Value, ir.DataType]:
    """Give a value a type that all parts of a graph can agree on."""
    if dtype in _LIFTED:
        assert dtype is not None
        return value, dtype
    wanted = ir.DataType.DOUBLE if dtype in _WIDE else ir.DataType.FLOAT
    return lifter.add(graph, "Cast", [value], wanted, to=wanted), wanted


def _shape(lifter: Lifter, graph: ir.Graph, value: ir.Value) -> tuple[Part, ...]:
    integer = ir.DataType.INT64
    shape = lifter.add(graph, "Shape", [value], integer)
    rank = lifter.flat(graph, lifter.add(graph, "Size", [shape], integer), integer)
    return Part(shape, Join.CONCAT, integer), Part(rank, Join.CONCAT, integer)
