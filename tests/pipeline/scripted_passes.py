"""A pass that does what a test of the manager tells it to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite


def content(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Scripted(Pass):
    """Does what a test tells it to."""

    name: ClassVar[str] = "scripted"
    effect: ClassVar[Effect] = Effect.EXACT

    script: Any = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        return self.script(model, context)  # type: ignore[no-any-return] # a test's own function
