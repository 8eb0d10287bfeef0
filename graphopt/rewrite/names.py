"""Names for new values and nodes that no scope of a model uses yet."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from graphopt.model.scopes import scopes

_KEY = "graphopt.rewrite.names"


class Names:
    """The names of the values of a model, in all scopes.

    A name is unique in the whole model, not only in its graph: a body sees the values around it,
    so that a name which is free in the body may still shadow one that the body reads.
    """

    def __init__(self, model: ir.Model) -> None:
        self._count: Counter[str] = Counter()
        for scope in scopes(model):
            graph = scope.graph
            self._count.update({value.name for value in graph.inputs if value.name})
            self._count.update(
                name for name, value in graph.initializers.items() if not value.is_graph_input()
            )
            for node in graph:
                self._count.update(output.name for output in node.outputs if output.name)

    @classmethod
    def of(cls, model: ir.Model) -> Names:
        """Return the names of a model, collected once until `forget`."""
        names = model.meta.get(_KEY)
        if not isinstance(names, Names):
            names = model.meta[_KEY] = cls(model)
        return names

    @staticmethod
    def forget(model: ir.Model) -> None:
        """Drop what `of` has collected."""
        model.meta.pop(_KEY, None)

    def __contains__(self, name: object) -> bool:
        """Whether some scope uses a name."""
        return name in self._count

    def fresh(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2` and so on, and reserve it."""
        name, number = base, 0
        while name in self._count:
            number += 1
            name = f"{base}_{number}"
        self._count[name] += 1
        return name

    def is_ambiguous(self, name: str | None) -> bool:
        """Whether several scopes define a name, so that reading it from afar may hit another."""
        return name is None or self._count[name] > 1
