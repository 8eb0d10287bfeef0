"""The members of an ensemble, each in a session of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.ensembles.output_types import complete_outputs, is_complete
from graphopt.ensembles.ports import Bundle, value_port
from graphopt.ensembles.reference.cells import Array
from graphopt.ensembles.reference.parts import without_inputs
from graphopt.errors import GraphoptError
from graphopt.pipeline.registry import nearest
from graphopt.pipeline.snapshot import snapshot
from graphopt.runtime.session import Session


class Sessions:
    """The members of an ensemble, ready to run. Sessions start when they are first used.

    Args:
        members: Models by name. Soups are given resolved, as members of their own.
        mapping: `member.input` with the name of the ensemble's input that it is.
        providers: Execution providers, preferred first.
        optimization: ONNX Runtime's graph optimizations of each.
    """

    def __init__(
        self,
        members: Mapping[str, ir.Model],
        *,
        mapping: Mapping[str, str] | None = None,
        providers: Sequence[str] = ("cpu",),
        optimization: str = "all",
    ) -> None:
        self._members = dict(members)
        self._mapping = dict(mapping or {})
        self._providers = tuple(providers)
        self._optimization = optimization
        self._outputs: dict[str, Bundle] = {}
        self._sessions: dict[tuple[str, frozenset[str]], Session | None] = {}

    def add(self, name: str, model: ir.Model) -> None:
        """Add a member; what the others have computed, or started, stays.

        Raises:
            GraphoptError: There is one of this name.
        """
        if name in self._members:
            raise GraphoptError(f"there is a member {name!r} already", fix="give another name")
        self._members[name] = model

    def model(self, name: str) -> ir.Model:
        """Return the model of a member.

        Raises:
            GraphoptError: There is none.
        """
        if name not in self._members:
            raise GraphoptError(f"there is no member {name!r}", fix=nearest(name, self._members))
        return self._members[name]

    def inputs(self, name: str) -> Bundle:
        """Describe the inputs that a member must be fed."""
        graph = self.model(name).graph
        return tuple(value_port(value) for value in graph.inputs if not value.is_initializer())

    def defaults(self, name: str) -> Bundle:
        """Describe the inputs of a member that have a default."""
        graph = self.model(name).graph
        return tuple(value_port(value) for value in graph.inputs if value.is_initializer())

    def outputs(self, name: str) -> Bundle:
        """Describe the outputs of a member."""
        if name not in self._outputs:
            model = self.model(name)
            if not all(map(is_complete, model.graph.outputs)):
                model = snapshot(model)
                complete_outputs(model)
            self._outputs[name] = tuple(map(value_port, model.graph.outputs))
        return self._outputs[name]

    def run(
        self, name: str, feeds: Mapping[str, Array], missing: frozenset[str] = frozenset()
    ) -> dict[str, Array]:
        """Run a member.

        Args:
            name: Of it.
            feeds: Arrays by input.
            missing: Inputs that are not fed. What needs them is not computed.

        Returns:
            The outputs by name, without those that need what is missing.

        Raises:
            CheckFailed: ONNX Runtime does not.
        """
        key = (name, missing)
        if key not in self._sessions:
            model = self.model(name)
            part = without_inputs(model, missing) if missing else model
            self._sessions[key] = None if not part.graph.outputs else self._start(name, part)
        session = self._sessions[key]
        if session is None:
            return {}
        return session.run({name: feeds[name] for name in session.input_names if name in feeds})

    def _start(self, name: str, model: ir.Model) -> Session:
        return Session(
            model, self._providers, title=f"member {name!r}", optimization=self._optimization
        )

    def outside(self, member: str, name: str, inputs: Mapping[str, object]) -> str:
        """Return the name of the ensemble's input that feeds an input of a member.

        Args:
            member: Its name.
            name: Of its input.
            inputs: Those of the ensemble that are given; the input need not be among them.
        """
        mapped = self._mapping.get(f"{member}.{name}")
        if mapped is not None:
            return mapped
        return own if (own := f"{member}/{name}") in inputs else name
