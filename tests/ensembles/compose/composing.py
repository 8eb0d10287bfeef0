"""What the tests of compositions share: members from text, ensembles of them, and their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ensembles.compose import Composition
from graphopt.model import load
from graphopt.model.scopes import scopes
from graphopt.runtime.session import Session

FIXTURES = Path(__file__).parents[3] / "fixtures"
DIGITS = ("cnn", "mlp", "resnet", "separable")

LINEAR = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {{1, 2, 3}}>
{{ p = Mul (x, w)  y = Softmax <axis = 1> (p) }}
"""

CALLS = """
<ir_version: 10, opset_import: ["" : 18, "local" : {version}]>
g (float[N, 3] x) => (float[N, 3] y) {{ y = local.Outer (x) }}
<domain: "local", opset_import: ["" : 18, "local" : {version}]>
Outer (x) => (y) {{ t = local.Inner (x)  {name} = Neg (t)  y = Identity ({name}) }}
<domain: "local", opset_import: ["" : 18]>
Inner (x) => (y) {{ y = {inner} (x) }}
<domain: "local", opset_import: ["" : 18]>
Unused (x) => (y) {{ y = Relu (x) }}
"""


def text(source: str) -> ir.Model:
    return ir.from_onnx_text(source)


def linear(opset: int, ir_version: int = 8) -> ir.Model:
    return text(LINEAR.format(opset=opset, ir=ir_version))


def calls(inner: str, name: str = "n", version: int = 1) -> ir.Model:
    return text(CALLS.format(inner=inner, name=name, version=version))


def digits(name: str) -> ir.Model:
    return load(FIXTURES / f"digits_{name}.onnx")


def bindings(composition: Composition, member: str) -> dict[str, ir.Value]:
    inputs = composition.signature(member).inputs
    return {port.name: composition.input(member, port.name) for port in inputs}


def side_by_side(composition: Composition, *members: str) -> ir.Model:
    """Place members once each in the main graph; their outputs are `member.output`."""
    graph = composition.model.graph
    outputs: dict[str, ir.Value] = {}
    for member in members:
        placed = composition.place(member, bindings(composition, member), graph)
        outputs.update({f"{member}.{name}": value for name, value in placed.items()})
    return composition.finish(outputs)


def composed(members: Mapping[str, ir.Model], **options: Any) -> ir.Model:
    return side_by_side(Composition(members, **options), *members)


def choice(
    composition: Composition, first: Mapping[str, ir.Value], second: Mapping[str, ir.Value]
) -> dict[str, ir.Value]:
    """Choose by the input `choose` between what two bodies compute."""
    choose = ir.Value(name="choose", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    composition.model.graph.inputs.append(choose)
    branches = []
    for name, values in (("then_branch", first), ("else_branch", second)):
        body = next(iter(values.values())).producer().graph  # type: ignore[union-attr]
        body.outputs.extend(values.values())
        branches.append(ir.AttrGraph(name, body))
    outputs = {
        name: ir.Value(name=f"chosen_{name}", type=value.type, shape=value.shape)
        for name, value in first.items()
    }
    node = ir.Node("", "If", [choose], branches, outputs=list(outputs.values()), name="choice")
    composition.model.graph.append(node)
    return outputs


def body(name: str) -> ir.Graph:
    return ir.Graph([], [], nodes=[], name=name)


def run(model: ir.Model, feeds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return Session(model, threads=1).run(dict(feeds or {}))


def rows(count: int, width: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def names_are_unique(model: ir.Model) -> bool:
    names: list[str | None] = []
    for scope in scopes(model):
        if scope.function is not None:
            continue
        graph = scope.graph
        names += [value.name for value in graph.inputs]
        names += [name for name, value in graph.initializers.items() if not value.is_graph_input()]
        names += [value.name for node in graph for value in node.outputs if value.name]
    return len(names) == len(set(names))


def negated(shape: str = "N, 3", kind: str = "float", x: str = "x", y: str = "y") -> ir.Model:
    return text(
        f'<ir_version: 8, opset_import: ["" : 13]> g ({kind}[{shape}] {x}) => ({kind}[{shape}] {y})'
        f" {{ {y} = Neg ({x}) }}"
    )


def faces(model: ir.Model) -> dict[str, str]:
    values = (*model.graph.inputs, *model.graph.outputs)
    return {value.name or "": f"{value.dtype}{value.shape}" for value in values}
