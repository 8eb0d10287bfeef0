"""Which values may turn out empty although the inputs of the model are not."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

_SELECTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators that give as many rows as the data say, none among them."""


class Emptiness:
    """Says of values whether the data decide how many rows they have; looks at each node once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, bool] = {}

    def any(self, values: Iterable[ir.Value | None]) -> bool:
        """Say whether one of these may be empty."""
        return any(self._may_be_empty(value) for value in values if value is not None)

    def _may_be_empty(self, value: ir.Value) -> bool:
        waiting = [value]
        while waiting:
            current = waiting[-1]
            node = current.producer()
            sources = [] if node is None else [source for source in node.inputs if source]
            unknown = [source for source in sources if source not in self._known]
            if current in self._known or not unknown:
                waiting.pop()
                selects = node is not None and node.op_type in _SELECTING
                found = selects or any(self._known[source] for source in sources)
                self._known.setdefault(current, found)
            else:
                waiting.extend(unknown)
        return self._known[value]
