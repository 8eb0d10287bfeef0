"""The evaluation of expressions on one batch of inputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.ensembles import outcome
from graphopt.ensembles.expression import Expression, Program
from graphopt.ensembles.names import written_out
from graphopt.ensembles.reference.cells import Absent, Array, Cell, Outputs, View
from graphopt.ensembles.reference.rules import RULES
from graphopt.ensembles.reference.sessions import Sessions
from graphopt.ensembles.reference.site import Site
from graphopt.ensembles.text import as_program
from graphopt.ensembles.unparse import title
from graphopt.ensembles.wiring import Environment

_MEMORY = 256 << 20


def evaluate(
    program: Program | Expression | str,
    members: Mapping[str, ir.Model],
    inputs: Mapping[str, Array],
    *,
    mapping: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """Compute an ensemble in numpy over its members' own sessions.

    Args:
        program: What is computed.
        members: Models by name. A soup is given resolved, as a member of its own.
        inputs: The inputs of the ensemble by name.
        mapping: `member.input` with the name of the ensemble's input that it is.

    Returns:
        The outputs by name.

    Raises:
        GraphoptError: It cannot be computed: a member or input is missing, or does not fit.
        CheckFailed: ONNX Runtime does not run a member.
    """
    return Reference(Sessions(members, mapping=mapping), inputs).outputs(program)


class Reference:
    """One batch of inputs, and what expressions make of it.

    What members and parts of expressions have computed is kept, so that weights can be tried over
    the same outputs: only what is above them is computed again.

    Args:
        sessions: The members, which several batches share.
        inputs: The inputs of the ensemble by name.
        memory: Bytes of parts of expressions that are kept; outputs of members are always kept.
    """

    def __init__(
        self, sessions: Sessions, inputs: Mapping[str, Array], *, memory: int = _MEMORY
    ) -> None:
        self.sessions = sessions
        self.rules = RULES
        self._memory = memory
        view = View()
        self._top = Site(self, Environment(), view)
        self._names = tuple(inputs)
        self._given = {name: Cell(np.asarray(array), view) for name, array in inputs.items()}
        self._environments: dict[tuple[object, ...], Environment[Cell]] = {}
        self._known: OrderedDict[tuple[object, ...], Outputs] = OrderedDict()
        self._held = 0

    def outputs(self, program: Program | Expression | str) -> dict[str, Array]:
        """Compute an ensemble on the batch; see `evaluate`."""
        program = as_program(program)
        # Infinities and NaN are results here, as they are in the graph.
        with np.errstate(all="ignore"):
            return self._outputs(program)

    def _outputs(self, program: Program) -> dict[str, Array]:
        found: dict[str, Array] = {}
        view = self._top.view
        for name, expression in written_out(program):
            bundle = self._top.evaluate(expression)
            if name is None:
                found.update({item.port.name: view.read(item.value) for item in bundle})
                continue
            ports = [item.port for item in bundle]
            outcome.single(ports, title(expression), "an output of the ensemble")
            found[name] = view.read(bundle[0].value)
        return found

    def known(self, key: tuple[object, ...]) -> Outputs | None:
        """Return what was kept under a key."""
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        return self._known[key]

    def keep(self, key: tuple[object, ...], bundle: Outputs) -> None:
        """Keep outputs, and let go of those that were not used for longest."""
        self._known[key] = bundle
        self._held += _bytes(bundle)
        while self._held > self._memory and len(self._known) > 1:
            _, dropped = self._known.popitem(last=False)
            self._held -= _bytes(dropped)

    def environment(
        self, key: tuple[object, ...], make: Callable[[], Environment[Cell]]
    ) -> Environment[Cell]:
        """Return the environment of this key, one and the same each time."""
        if key not in self._environments:
            self._environments[key] = make()
        return self._environments[key]

    def given(self, member: str, name: str) -> Cell:
        """Return the input of the ensemble that feeds an input of a member.

        One that is not given is absent: a member needs no input for the outputs that read none.
        """
        key = self.sessions.outside(member, name, self._given)
        if key not in self._given:
            self._given[key] = Cell(Absent(key, self._names), self._top.view)
        cell = self._given[key]
        if isinstance(cell.array, Absent):
            cell.array.members[member] = None
        return cell

    def overridden(self, member: str) -> dict[str, Array]:
        """Return the defaults of a member that are fed."""
        names = [item.name for item in self.sessions.defaults(member)]
        feeds = {name: self._given.get(f"{member}/{name}") for name in names}
        view = self._top.view
        return {name: view.read(cell) for name, cell in feeds.items() if cell is not None}


def _bytes(bundle: Outputs) -> int:
    return sum(getattr(item.value.array, "nbytes", 0) for item in bundle)
