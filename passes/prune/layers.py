"""The layers of a model, and which channels they write and read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.pipeline.contract import Declined, Finding
from graphopt.rewrite.layers import Role
from graphopt.rewrite.selection import Globs, address, selects
from graphopt.rewrite.weights import Use, Weight, weights
from passes.prune.channels import Channels
from passes.prune.coupling import Components
from passes.prune.places import Place
from passes.prune.scores import axes_of


@dataclass(frozen=True)
class Layers:
    """What the weights of layers are to channels.

    Args:
        components: The slices of their tensors.
        found: The weights.
        writers: The weights by the axes along which they write channels.
        readers: Likewise, along which they read channels.
        include: Globs on layers that may lose output channels.
        exclude: Globs on those that keep them.
        op_types: Their operators; None: any.
    """

    components: Components
    found: tuple[Weight, ...]
    writers: dict[tuple[Place, int], Weight]
    readers: dict[tuple[Place, int], Weight]
    include: Globs
    exclude: Globs
    op_types: Collection[str] | None

    @classmethod
    def of(
        cls,
        model: ir.Model,
        components: Components,
        include: Globs,
        exclude: Globs,
        op_types: str | Collection[str] | None,
    ) -> Layers:
        """Find the layers of a model."""
        wanted = (op_types,) if isinstance(op_types, str) else op_types
        roles = (Role.WEIGHT, Role.EMBEDDING)
        found = tuple(one for one in weights(model, roles=roles) if isinstance(one, Weight))
        sides: tuple[dict[tuple[Place, int], Weight], dict[tuple[Place, int], Weight]] = ({}, {})
        for weight in found:
            for place, axis, writes in axes_of(components, weight):
                sides[0 if writes else 1][place, axis] = weight
        return cls(components, found, *sides, include, exclude, wanted)

    def scored(self) -> Iterator[Weight]:
        """Yield the weights whose numbers count: those that are not excluded."""
        for weight in self.found:
            if not any(self._matches(use, weight, "*", self.exclude) for use in weight.uses):
                continue
            yield weight

    def _matches(self, use: Use, weight: Weight, include: Globs, exclude: Globs) -> bool:
        names = (weight.name, weight.at)
        return selects(use.node, use.scope, include, exclude, names=names)

    def chosen(self, group: Channels) -> bool:
        """Whether the channels of a group may go."""
        writers = self._of(group, self.writers)
        uses = [(use, weight) for weight in writers for use in weight.uses]
        return all(self._matches(use, weight, "*", self.exclude) for use, weight in uses) and any(
            self._matches(use, weight, self.include, "")
            and (self.op_types is None or use.node.op_type in self.op_types)
            for use, weight in uses
        )

    def _of(self, group: Channels, side: dict[tuple[Place, int], Weight]) -> list[Weight]:
        return [side[key] for key in group.axes if key in side]

    def unmatched(self, whose: str) -> Iterator[Finding]:
        """Say where no layer goes by the names and operators asked for, or there is none.

        Args:
            whose: The model's name.
        """
        uses = [(use, weight) for weight in self.found for use in weight.uses]
        if not uses:
            yield Finding(whose, "no layer has weights that can be cut")
            return
        if not any(self._matches(use, weight, self.include, "") for use, weight in uses):
            yield Finding(whose, f"no layer matches include={self.include!r}")
        if self.op_types is not None and not any(
            use.node.op_type in self.op_types for use, _ in uses
        ):
            yield Finding(whose, f"no layer is a {' or '.join(self.op_types)} (op_types)")

    def first_writer(self, group: Channels) -> str:
        """Return the address of the first layer that writes channels."""
        use = self._of(group, self.writers)[0].uses[0]
        return address(use.node, use.scope)

    def touched(self, group: Channels) -> int:
        """Return how many weights lose channels."""
        sides = (self._of(group, self.writers), self._of(group, self.readers))
        return len({weight.value for side in sides for weight in side})

    def slices(self, group: Channels) -> int:
        """Return how many slices of the first weight that writes it a channel has."""
        places = self.components.coupling.places
        key = next(key for key in group.axes if key in self.writers)
        ids = places.known(*key)
        owners = places.owner_of(group.slices[0])
        return 1 if ids is None else int((owners == places.owner_of(ids[:1])[0]).sum())

    def declined(self) -> Iterator[Declined]:
        """Say which layers keep all channels that they write, and why."""
        told: set[str] = set()
        for (place, axis), weight in self.writers.items():
            ids = self.components.coupling.places.known(place, axis)
            use = weight.uses[0]
            at = address(use.node, use.scope)
            if ids is None or at in told or not self.components.frozen(ids).all():
                continue
            if self._matches(use, weight, self.include, self.exclude) and (
                self.op_types is None or use.node.op_type in self.op_types
            ):
                told.add(at)
                yield Declined(at, f"its channels stay: {self.components.why(ids)}")
