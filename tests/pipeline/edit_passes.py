"""Passes that make one edit a test wants, and data to compare on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.runtime.feeds import Feeds


@dataclass(frozen=True)
class Edit(Pass):
    """Makes one edit that a test wants."""

    name: ClassVar[str] = "edit"
    effect: ClassVar[Effect] = Effect.LOSSY

    edit: Any = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        yield Rewrite("here", "the test says so", lambda: self.edit(model))


def data(labels: Sequence[int] | None = None, samples: int = 6) -> Feeds:
    rows = np.random.default_rng(5).standard_normal((samples, 4)).astype(np.float32)
    return Feeds({"x": rows}, labels=None if labels is None else np.array(labels))


def labelled() -> Context:
    """Samples whose labels are the model's own answers: its accuracy is 1."""
    feeds = data(samples=32)
    x = feeds.arrays["x"]
    y = np.maximum(x * [1, -2, 3, -4] + [0.5, 0.25, 0.125, 1.0], 0)
    return Context(feeds=Feeds(feeds.arrays, labels=y.argmax(axis=1)))
