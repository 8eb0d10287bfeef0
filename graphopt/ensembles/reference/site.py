"""Where expressions are evaluated: what feeds them, and which rows they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.ensembles.expression import Expression, Member
from graphopt.ensembles.ports import Bundle, Port, port
from graphopt.ensembles.reference.cells import (
    Absent,
    Array,
    Cell,
    Outputs,
    View,
    absent,
    batch_symbols,
    input_row_axis,
    row_axes,
)
from graphopt.ensembles.wiring import Environment, Wired

if TYPE_CHECKING:
    from graphopt.ensembles.reference.evaluation import Reference


@dataclass(frozen=True, eq=False)
class Site:
    """Where an expression is evaluated.

    Args:
        reference: What keeps results.
        environment: What feeds the inputs of members.
        view: The rows that are computed.
    """

    reference: Reference
    environment: Environment[Cell]
    view: View

    def evaluate(self, expression: Expression) -> Outputs:
        """Return the outputs of an expression."""
        if isinstance(expression, Member):
            return self._member(expression.name)
        key = (expression, self.environment, self.view)
        found = self.reference.known(key)
        if found is None:
            found = self.reference.rules[type(expression)](expression, self)
            self.reference.keep(key, found)
        return found

    def after(self, outputs: Outputs) -> Site:
        """Return the site behind a `>>`."""
        key = (self.environment, tuple((item.port.name, item.value) for item in outputs))
        return replace(
            self,
            environment=self.reference.environment(key, lambda: self.environment.after(outputs)),
        )

    def binding(self, bindings: Mapping[str, Wired[Cell]]) -> Site:
        """Return the site where inputs of these names are fed from these values."""
        bound = tuple((name, item.port.name, item.value) for name, item in bindings.items())
        key = (self.environment, "=", bound)
        return replace(
            self,
            environment=self.reference.environment(key, lambda: self.environment.binding(bindings)),
        )

    def seeing(self, view: View) -> Site:
        """Return the site with other rows."""
        return replace(self, view=view)

    def read(self, cell: Cell) -> Array | Absent:
        """Return an array as it is seen here; what is absent stays so, until `View.read` asks."""
        return cell.array if isinstance(cell.array, Absent) else self.view.read(cell)

    def arrays(self, bundle: Outputs) -> list[Array | Absent]:
        """Return the arrays of a bundle, as they are seen here."""
        return [self.read(item.value) for item in bundle]

    def made(
        self, ports: Sequence[Port], arrays: Sequence[Array | Absent], like: Outputs
    ) -> Outputs:
        """Return outputs that were computed here, whose rows lie as those of others do."""
        return tuple(
            Wired(port, Cell(array, self.view, source.value.axis))
            for port, array, source in zip(ports, arrays, like, strict=True)
        )

    def input(self, member: str, name: str) -> Wired[Cell]:
        """Return what feeds an input of a member here, before any cast."""
        inputs = self.reference.sessions.inputs(member)
        sources = self.environment.sources(member, inputs)
        if name in sources:
            return sources[name].wired
        wanted = next(item for item in inputs if item.name == name)
        return Wired(wanted, self._outside(member, wanted))

    def _member(self, name: str) -> Outputs:
        sessions = self.reference.sessions
        inputs = sessions.inputs(name)
        sources = self.environment.sources(name, inputs)
        cells = {
            item.name: sources[item.name].wired.value
            if item.name in sources
            else self._outside(name, item)
            for item in inputs
        }
        key = (name, *cells.items())
        found = self.view.instance(key)
        if found is None:
            fed = {item.name: self.read(cells[item.name]) for item in inputs}
            found = self._run(name, fed)
            self.view.instances[key] = found
        return found

    def _run(self, name: str, fed: Mapping[str, Array | Absent]) -> Outputs:
        sessions = self.reference.sessions
        missing = {key: array for key, array in fed.items() if isinstance(array, Absent)}
        feeds = {
            item.name: _typed(array, item)
            for item in sessions.inputs(name)
            if not isinstance(array := fed[item.name], Absent)
        }
        computed = sessions.run(
            name, {**feeds, **self.reference.overridden(name)}, frozenset(missing)
        )
        ports = sessions.outputs(name)
        # What was not computed needs an input that is absent.
        rest = absent(missing.values())
        lost = {} if rest is None else {item.name: rest for item in ports}
        arrays: dict[str, Array | Absent] = {**lost, **computed}
        symbols = batch_symbols(sessions.inputs(name), ports)
        return tuple(
            Wired(item, Cell(arrays[item.name], self.view, axis))
            for item, axis in zip(ports, row_axes(ports, symbols), strict=True)
        )

    def _outside(self, member: str, wanted: Port) -> Cell:
        cell = self.reference.given(member, wanted.name)
        sessions = self.reference.sessions
        cell.axis = input_row_axis(wanted, sessions.inputs(member), sessions.outputs(member))
        return cell


def described(bundle: Outputs) -> Bundle:
    """Return the descriptions of outputs."""
    return tuple(port(item.port) for item in bundle)


def _typed(array: Array, wanted: Port) -> Array:
    """Cast a float or an integer to the width that an input has."""
    if wanted.dtype is None or wanted.dtype == ir.DataType.STRING:
        return array
    dtype = wanted.dtype.numpy()
    return array if array.dtype == dtype else array.astype(dtype)
