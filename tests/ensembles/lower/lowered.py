"""Ensembles built from text and members, beside what their members compute by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import scipy.special

from graphopt.ensembles.compose import Composition
from graphopt.ensembles.expression import Program
from graphopt.ensembles.lower import lower
from graphopt.ensembles.text import parse
from graphopt.model import load
from graphopt.runtime.session import Session

softmax = partial(scipy.special.softmax, axis=-1)

FIXTURES = Path(__file__).parents[3] / "fixtures"
BATCHES = (1, 7, 32)
Arrays = dict[str, np.ndarray]


class Ensemble:
    """A lowered program: checked, and ready to run."""

    def __init__(self, program: str | Program, **members: ir.Model) -> None:
        self.composition = Composition(members)
        parsed = parse(program) if isinstance(program, str) else program
        self.model = lower(parsed, self.composition)
        onnx.checker.check_model(ir.to_proto(self.model), full_check=True)
        self.notes = self.composition.notes
        self.session = Session(self.model)

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        return self.session.run(inputs)

    def only(self, **inputs: np.ndarray) -> np.ndarray:
        (found,) = self(**inputs).values()
        return found

    def count(self, op_type: str, graph: ir.Graph | None = None) -> int:
        """Nodes of one operator in the main graph, or in another."""
        return sum(node.op_type == op_type for node in graph or self.model.graph)


def text_model(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def run(model: ir.Model, **inputs: np.ndarray) -> Arrays:
    return Session(model).run(inputs)


@cache
def digits(name: str, opset: int = 20) -> ir.Model:
    """A fixture in an older opset, where its operators are written alike but for a default."""
    model = load(FIXTURES / f"digits_{name}.onnx")
    model.opset_imports[""] = opset
    for node in model.graph:
        if opset < 14:
            node.attributes.pop("allowzero", None)
    return model


@cache
def images() -> np.ndarray:
    return np.asarray(np.load(FIXTURES / "digits_test.npz")["image"])


@cache
def _logits(name: str, opset: int, batch: int) -> np.ndarray:
    return run(digits(name, opset), image=images()[:batch])["logits"]


OPSETS = {
    "a": ("mlp", 11),
    "b": ("mlp", 13),
    "c": ("cnn", 17),
    "d": ("resnet", 20),
    "e": ("separable", 20),
}


def all_digits() -> dict[str, ir.Model]:
    return {name: digits(*which) for name, which in OPSETS.items()}


def logits(batch: int) -> dict[str, np.ndarray]:
    """What each of `all_digits` computes by itself."""
    return {name: _logits(*which, batch) for name, which in OPSETS.items()}


def table(outputs: Mapping[str, np.ndarray], *, opset: int = 13) -> ir.Model:
    """A model that looks up rows of tables by its input `row` (int64 [N]): any outputs at will."""
    row = ir.Value(name="row", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["N"]))
    graph = ir.Graph([row], [], nodes=[], opset_imports={"": opset}, name="table")
    column = ir.Tensor(np.asarray([-1, 1]), name="column")
    graph.register_initializer(ir.Value(name="column", const_value=column))
    places = ir.node("Reshape", [row, graph.initializers["column"]])
    graph.append(places)
    for name, content in outputs.items():
        rows_ = ir.Value(name=f"{name}_table", const_value=_tensor(content))
        graph.register_initializer(rows_)
        # Gather of ONNX Runtime copies one string of each row.
        node = ir.node("GatherND", [rows_, places.outputs[0]])
        graph.append(node)
        found = node.outputs[0]
        found.name, found.dtype = name, rows_.const_value.dtype
        found.shape = ir.Shape(["N", *content.shape[1:]])
        graph.outputs.append(found)
    return ir.Model(graph, ir_version=8)


def _tensor(content: np.ndarray) -> ir.TensorProtocol:
    if content.dtype.kind not in "OU":
        return ir.Tensor(content)
    texts = [text.encode() for text in content.reshape(-1)]
    return ir.StringTensor(texts, shape=ir.Shape(content.shape))


def rows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def scaled(factor: float) -> ir.Model:
    return text_model(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 2] x) => (float[M, 2] y) {{
            f = Constant<value_float = {factor}>()
            s = Mul(x, f)
            y = Softmax(s)
        }}"""
    )


def between(confidences: np.ndarray, share: float) -> float:
    """A threshold with a share of the rows below it, and far from each of them."""
    ordered = np.sort(confidences)
    place = round(share * len(ordered))
    if place in (0, len(ordered)):
        return 0.0 if place == 0 else 1.0
    return float((ordered[place - 1] + ordered[place]) / 2)
