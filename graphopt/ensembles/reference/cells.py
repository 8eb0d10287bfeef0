"""Arrays while an ensemble is evaluated in numpy: all rows of them, or those that a stage sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ensembles.ports import Port
from graphopt.ensembles.wiring import Wired
from graphopt.errors import GraphoptError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Absent:
    """Stands for an array that needs an input which is not given, until something reads it.

    Args:
        name: Of the input of the ensemble.
        given: The names of those that are given.
        members: What has asked for it; more may come.
    """

    name: str
    given: Sequence[str]
    members: dict[str, None] = field(default_factory=dict)

    def error(self) -> GraphoptError:
        """Say what is missing, and for which members."""
        asking = " and ".join(map(repr, self.members))
        return GraphoptError(
            f"input {self.name!r} of member{'s' * (len(self.members) > 1)} {asking} is missing",
            fix=f"there is {', '.join(self.given) or 'none'}",
        )


def absent(arrays: Iterable[Array | Absent]) -> Absent | None:
    """Return the first that is absent."""
    return next((array for array in arrays if isinstance(array, Absent)), None)


@dataclass(eq=False)
class View:
    """The rows that are computed: all, or some of those of another view.

    Args:
        outer: The view around; None: this is all rows.
        rows: Indices into the rows of the outer view; None: all of them.
        total: How many rows the outer view has.
    """

    outer: View | None = None
    rows: npt.NDArray[np.int64] | None = None
    total: int = 0
    instances: dict[tuple[object, ...], Outputs] = field(default_factory=dict, init=False)

    def read(self, cell: Cell) -> Array:
        """Return an array as it is seen here.

        Raises:
            GraphoptError: It is absent.
        """
        if isinstance(cell.array, Absent):
            raise cell.array.error()
        if cell.view is self:
            return cell.array
        if self.outer is None:
            raise ValueError("the array is computed in no view around this one")
        array = self.outer.read(cell)
        if self.rows is None or cell.axis is None or array.ndim <= cell.axis:
            return array
        if array.shape[cell.axis] != self.total:
            return array
        return np.take(array, self.rows, axis=cell.axis)

    def instance(self, key: tuple[object, ...]) -> Outputs | None:
        """Return what a member computed here, or in a view around."""
        if key in self.instances:
            return self.instances[key]
        return None if self.outer is None else self.outer.instance(key)


@dataclass(eq=False)
class Cell:
    """An array of a view.

    Args:
        array: It, or that it is absent; for what is no tensor, what ONNX Runtime returns.
        view: Whose rows it has.
        axis: Where the rows lie; None: it has none.
    """

    array: Array | Absent
    view: View = field(repr=False)
    axis: int | None = 0


Outputs = tuple[Wired[Cell], ...]
"""The outputs of an expression, in order, with their arrays."""


def row_axes(ports: Sequence[Port], symbols: frozenset[str]) -> list[int | None]:
    """Return along which axis the rows of each lie: the one with a symbol of the batch, or 0.

    Args:
        ports: Inputs or outputs of a member.
        symbols: The symbols of its batch (see `batch_symbols`).
    """
    return [_row_axis(port, symbols) for port in ports]


def batch_symbols(inputs: Sequence[Port], outputs: Sequence[Port]) -> frozenset[str]:
    """Return the symbols of the outputs' axis 0 that inputs have, else of the inputs' axis 0."""
    everywhere = {size for port in inputs for size in port.shape or ()}
    return frozenset(_leading(outputs) & everywhere) or frozenset(_leading(inputs))


def input_row_axis(port: Port, inputs: Sequence[Port], outputs: Sequence[Port]) -> int | None:
    """Return along which axis the rows of an input lie; None: it has none.

    Where outputs say which symbol is the batch's, an input of another symbol has no rows.
    """
    symbols = batch_symbols(inputs, outputs)
    axis = _row_axis(port, symbols)
    size = port.shape[axis] if port.shape and axis is not None else None
    told = symbols <= _leading(outputs)
    return None if told and isinstance(size, str) and size not in symbols else axis


def has_fixed_batch(inputs: Sequence[Port], outputs: Sequence[Port]) -> bool:
    """Whether a member takes one number of rows only, and more than 1."""
    if batch_symbols(inputs, outputs):
        return False
    leading = [port.shape[0] for port in inputs if port.shape]
    return bool(leading) and all(isinstance(size, int) and size > 1 for size in leading)


def _leading(ports: Sequence[Port]) -> set[str]:
    return {port.shape[0] for port in ports if port.shape and isinstance(port.shape[0], str)}


def _row_axis(port: Port, symbols: frozenset[str]) -> int | None:
    if port.shape is None:
        return 0
    for axis, size in enumerate(port.shape):
        if size in symbols:
            return axis
    if not port.shape or (symbols and isinstance(port.shape[0], int)):
        return None
    return 0
