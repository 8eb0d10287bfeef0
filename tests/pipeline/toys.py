"""Passes and models that the tests of pipelines run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.registry import Registry

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[N, 4] x) => (float[N, 4] y)
<float[4] w = {1.0, -2.0, 3.0, -4.0}, float[4] b = {0.5, 0.25, 0.125, 1.0}>
{
    [first] h0 = Mul(x, w)
    [second] h1 = Identity(h0)
    [third] h2 = Add(h1, b)
    [fourth] h3 = Identity(h2)
    [fifth] y = Relu(h3)
}
"""


def chain() -> ir.Model:
    return ir.from_onnx_text(CHAIN)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Remove Identity nodes."""

    name: ClassVar[str] = "drop_identity"
    effect: ClassVar[Effect] = Effect.EXACT

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        for node in list(model.graph):
            if node.op_type != "Identity":
                yield Declined(at=node.name or "?", why=f"{node.op_type} is no Identity")
                continue

            def apply(node: ir.Node = node) -> None:
                source, target = node.inputs[0], node.outputs[0]
                assert source is not None
                target.replace_all_uses_with(source)
                model.graph.remove(node, safe=True)

            yield Rewrite(at=node.name or "?", why="it copies its input", apply=apply)


@dataclass(frozen=True)
class Scale(Pass):
    """Multiply every initializer by a factor.

    Formula: w <- factor * w.
    """

    name: ClassVar[str] = "scale"
    effect: ClassVar[Effect] = Effect.LOSSY

    factor: float = 1.0
    include: tuple[str, ...] = ()
    mode: Literal["all", "first"] = "all"
    cap: int | None = None

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 0:
            raise GraphoptError(f"cap must not be negative, it is {self.cap}", fix="leave it out")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        for value in list(model.graph.initializers.values())[: 1 if self.mode == "first" else None]:

            def apply(value: ir.Value = value) -> None:
                assert value.const_value is not None
                array = value.const_value.numpy() * np.float32(self.factor)
                value.const_value = ir.tensor(array, name=value.name)

            details = {"weight": value.name, "factor": self.factor}
            yield Rewrite(at=value.name or "?", why="it is there", apply=apply, details=details)


@dataclass(frozen=True)
class FalseScale(Scale):
    """Claims to be exact and is not."""

    name: ClassVar[str] = "false_scale"
    effect: ClassVar[Effect] = Effect.EXACT


@dataclass(frozen=True)
class Boom(Pass):
    """Rewrite `after` times, then raise."""

    name: ClassVar[str] = "boom"
    effect: ClassVar[Effect] = Effect.LOSSY

    after: int = 1
    words: str = "out of luck"

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        for _ in range(self.after):

            def apply() -> None:
                model.graph.name = "spoiled"
                model.graph.node(0).name = "spoiled"
                model.graph.outputs[0].dtype = ir.DataType.DOUBLE

            yield Rewrite(at="first", why="to spoil it", apply=apply)
        raise RuntimeError(self.words)


ALL = (DropIdentity, Scale, FalseScale, Boom)


def registry() -> Registry:
    return Registry(classes=ALL)
