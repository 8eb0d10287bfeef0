"""Weights that an old file had to list among its inputs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.pipeline.contract import Declined, Rewrite

_DEFAULTS_SINCE = 4
"""From this IR version on, an initializer that is also a graph input is a default of that input."""


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite for a model of IR version 3 or less that has initializers.

    There every initializer had to be listed as a graph input, and was fixed all the same: ONNX
    Runtime neither asks for these inputs nor lets anyone override them. From IR version 4 on the
    same listing makes a default, so the listing goes when the version rises; and it has to rise for
    any constant to be added or removed without an input of its own.
    """
    listed = [value for value in model.graph.inputs if value.is_initializer()]
    if not listed or (model.ir_version or 0) >= _DEFAULTS_SINCE:
        return

    def apply() -> None:
        model.graph.inputs[:] = [v for v in model.graph.inputs if not v.is_initializer()]
        model.ir_version = _DEFAULTS_SINCE

    why = f"IR version {model.ir_version} lists {len(listed)} fixed weights as inputs"
    yield Rewrite("inputs", why, apply)
