"""What programs compute for all samples of some data, over members that run once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ensembles.expression import Program, Soup
from graphopt.ensembles.names import without_soups
from graphopt.ensembles.reference import Reference, Sessions
from graphopt.ensembles.soups import resolve
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.layout import Input, inputs_of

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Outputs = dict[str, Array]
"""By output name, samples along axis 0."""

_MEMORY = 16 << 20
"""Bytes of parts of expressions that are kept for each batch."""


class Evaluation:
    """The members of an ensemble over some data; each runs once in each surrounding.

    Args:
        members: Models by name.
        feeds: Samples for the inputs of the ensemble.
        mapping: `member.input` with the name of the ensemble's input that it is.
        providers: Where the members run.
        batch: Samples per run.
    """

    def __init__(
        self,
        members: Mapping[str, ir.Model],
        feeds: Feeds,
        *,
        mapping: Mapping[str, str] | None = None,
        providers: Sequence[str] = ("cpu",),
        batch: int = 256,
    ) -> None:
        self._members = dict(members)
        self._soups: dict[Soup, str] = {}
        self._sessions = Sessions(members, mapping=mapping, providers=providers)
        fitted = feeds.for_model(_inputs(members, mapping or {}, feeds))
        self._references = [
            Reference(self._sessions, rows, memory=_MEMORY) for rows in fitted.batches(batch)
        ]

    def add(self, name: str, model: ir.Model) -> None:
        """Add a member; the others do not run again.

        Raises:
            GraphoptError: There is one of this name.
        """
        self._sessions.add(name, model)
        self._members[name] = model

    def outputs(self, program: Program) -> Outputs:
        """Compute a program for all samples.

        Raises:
            GraphoptError: It does not fit the members, or an output has no samples along axis 0.
        """
        program = Program(
            tuple((name, without_soups(of, self._cooked)) for name, of in program.statements)
        )
        parts = [reference.outputs(program) for reference in self._references]
        return {name: _joined(name, [part[name] for part in parts]) for name in parts[0]}

    def _cooked(self, soup: Soup) -> str:
        """Return the name of a member with the weights of a soup."""
        if soup not in self._soups:
            name = f"soup_{len(self._soups)}"
            while name in self._members:
                name = f"{name}_"
            self.add(name, resolve(soup, self._members))
            self._soups[soup] = name
        return self._soups[soup]


def _inputs(
    members: Mapping[str, ir.Model], mapping: Mapping[str, str], feeds: Feeds
) -> list[Input]:
    """Describe the inputs of the ensemble that the data have, as the first member wants them."""
    found: dict[str, Input] = {}
    for member, item in _all_inputs(members):
        names = (mapping.get(f"{member}.{item.name}"), f"{member}/{item.name}", item.name)
        for name in names:
            if name is not None and name in feeds.arrays and name not in found:
                found[name] = Input(name, item.dtype, item.shape, required=item.required)
                break
    unknown = [name for name in feeds.arrays if name not in found]
    if unknown:
        raise GraphoptError(
            f"no member has an input {unknown[0]!r}",
            file=feeds.source,
            fix=f"inputs are {', '.join(sorted({item.name for _, item in _all_inputs(members)}))}",
        )
    return list(found.values())


def _all_inputs(members: Mapping[str, ir.Model]) -> Iterator[tuple[str, Input]]:
    for member, model in members.items():
        for item in inputs_of(model):
            yield member, item


def _joined(name: str, parts: Sequence[Array]) -> Array:
    if not all(isinstance(part, np.ndarray) and part.ndim for part in parts):
        raise GraphoptError(f"output {name!r} has no samples along axis 0", fix="pick another")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
