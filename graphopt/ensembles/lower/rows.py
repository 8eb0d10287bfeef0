"""Along which axis a batch lies in a value, by what members declare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ensembles.lower.writer import sizes
from graphopt.ensembles.ports import Port
from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class Face:
    """What a member takes and gives."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class RowAxes:
    """Along which axis the rows of a batch lie in a value.

    Axis 0, unless that is static and another axis has the symbol of the batch or is the only one
    that is dynamic (the state of a recurrent network, [2, batch, 128]), or it has a symbol that is
    another axis of an input whose rows are known (positions [sequence] beside tokens
    [batch, sequence]).
    """

    def __init__(self) -> None:
        self._batch: set[str] = set()
        self._others: set[str] = set()
        self._static: set[int] = set()
        self._turned: set[int] = set()
        self._told: dict[ir.Value, int] = {}
        self._doubtful: set[ir.Value] = set()

    def learn(self, face: Face, bound: Iterable[tuple[str, ir.Value]]) -> None:
        """Take note of the symbols of values that feed a member.

        Args:
            face: Of the member.
            bound: The names of its inputs with the values, as they are where they are computed.
        """
        axes, doubtful = input_axes(face), _doubtful(face)
        for name, value in bound:
            known, rows = sizes(value), axes.get(name)
            if known is None:
                continue
            if rows is None or rows >= len(known):
                self._others.update(size for size in known if isinstance(size, str))
                continue
            if name in doubtful and not isinstance(known[rows], int):
                self.doubt(value, rows)
                continue
            if known[rows] is None:
                self._told[value] = rows
            if rows:
                self._turned.add(len(known))
            for axis, size in enumerate(known):
                if isinstance(size, str):
                    (self._batch if axis == rows else self._others).add(size)
                elif isinstance(size, int) and axis == rows:
                    self._static.add(size)

    def rows(self, symbol: str) -> None:
        """Take note of the symbol of a number of rows."""
        self._batch.add(symbol)

    def doubt(self, value: ir.Value, axis: int) -> None:
        """Take note that an axis of a value has its rows if any has."""
        self._told[value] = axis
        self._doubtful.add(value)

    def is_doubtful(self, value: ir.Value) -> bool:
        """Whether only a run can tell: the axis has as many elements as there are rows, or not."""
        return value in self._doubtful

    def of(self, value: ir.Value) -> int | None:
        """Return the axis of a value's rows; None: it has none.

        Raises:
            GraphoptError: Two axes have as many elements as there are rows: no row is apart. Or
                nothing tells the axis, and values like this one have it elsewhere.
        """
        known = sizes(value)
        if value in self._told:
            return self._told[value]
        if known is None:
            return 0
        if not known:
            return None
        named = [axis for axis, size in enumerate(known) if size in self._batch]
        if len(named) > 1:
            raise GraphoptError(
                f"cascade: {value.name!r} has the rows of the batch along {len(named)} axes, so "
                "that some rows cannot be taken out of it",
                fix="cascade members that compute each row by itself, or, where the sizes differ, "
                "name them differently in the member's file",
            )
        if named:
            return named[0]
        if known[0] is None and len(known) in self._turned:
            raise GraphoptError(
                f"cascade: along which axis {value.name!r} has the rows of the batch is not "
                f"declared, and an input of {len(known)} axes has them behind the first",
                fix="pick the outputs that are wanted: cascade(a.x, b.x), or declare the shape in "
                "the member's file",
            )
        if isinstance(known[0], int):
            return 0 if known[0] in self._static and known[0] != 1 else None
        return None if known[0] in self._others else 0


def input_axes(face: Face) -> dict[str, int | None]:
    """Return the axis of the rows of each input of a member, by what it declares."""
    symbols, others = _batch_symbols(face), _inner(face.inputs)
    if _told_by_outputs(face):
        others |= _leading(face.inputs)
    is_fixed = all(isinstance(item.shape[0], int) for item in face.inputs if item.shape)
    return {item.name: _axis(item, symbols, others, is_fixed=is_fixed) for item in face.inputs}


def fixed_batch(face: Face) -> int | None:
    """Return the only number of rows that a member takes; None: any, or none that is told."""
    leading = [item.shape[0] if item.shape else 1 for item in face.inputs if item.shape != ()]
    unknown = any(item.shape is None for item in face.inputs)
    if unknown or not all(isinstance(size, int) for size in leading) or _batch_symbols(face):
        return None
    for item in (*face.outputs, *face.inputs):
        if item.shape and isinstance(item.shape[0], int):
            return item.shape[0]
    return None


def _axis(
    item: Port, symbols: frozenset[str], others: frozenset[str], *, is_fixed: bool
) -> int | None:
    if item.shape is None:
        return 0
    named = [axis for axis, size in enumerate(item.shape) if size in symbols]
    if named:
        return named[0]
    if not item.shape or item.shape[0] in others:
        return None
    if not isinstance(item.shape[0], int) or is_fixed:
        return 0
    unnamed = [axis for axis, size in enumerate(item.shape) if size is None]
    return unnamed[0] if len(unnamed) == 1 else None


def _batch_symbols(face: Face) -> frozenset[str]:
    """The symbols of the batch: that of the outputs' axis 0, else those of the inputs'."""
    told = _told_by_outputs(face)
    if told:
        return told
    leading = _leading(face.inputs)
    outermost = leading - _inner(face.inputs)
    return leading if not outermost and None not in _firsts(face.inputs) else outermost


def _told_by_outputs(face: Face) -> frozenset[str]:
    """The symbols that outputs have along axis 0, and inputs anywhere."""
    everywhere = frozenset(size for item in face.inputs for size in item.shape or ())
    return _leading(face.outputs) & everywhere


def _doubtful(face: Face) -> frozenset[str]:
    """The inputs with a dynamic first axis of which nothing says whether it has the rows."""
    if _told_by_outputs(face):
        return frozenset(i.name for i in face.inputs if i.shape and i.shape[0] is None)
    firsts = _firsts(face.inputs)
    if len(firsts) < 2 or (None not in firsts and len(set(firsts)) == 1):
        return frozenset()
    return frozenset(item.name for item in face.inputs)


def _firsts(ports: Sequence[Port]) -> list[str | None]:
    """The sizes of the first axes that are not static."""
    firsts = (item.shape[0] for item in ports if item.shape)
    return [size for size in firsts if not isinstance(size, int)]


def _inner(ports: Sequence[Port]) -> frozenset[str]:
    """The symbols of other axes than the first."""
    return frozenset(
        size for item in ports for size in (item.shape or ())[1:] if isinstance(size, str)
    )


def _leading(ports: Sequence[Port]) -> frozenset[str]:
    """The symbols of the first axes."""
    firsts = (item.shape[0] for item in ports if item.shape)
    return frozenset(size for size in firsts if isinstance(size, str))
