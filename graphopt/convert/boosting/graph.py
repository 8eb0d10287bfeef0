"""Models of boosted trees: the graph, samples, and the comparison that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.convert.boosting.samples import Samples
from graphopt.convert.boosting.trees import ML_DOMAIN, ML_OPSET, write_label, write_two_classes
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import finish
from graphopt.convert.parity import Reference
from graphopt.convert.ties import decided, tie_note
from graphopt.runtime.feeds import Array, Batch

Link = Literal["identity", "sigmoid", "softmax", "exp", "softplus", "sign_square", "step"]

_OPSET = 21


@dataclass(frozen=True)
class Outcome:
    """What becomes of the sums over the trees.

    Args:
        link: From sums to what the library calls predictions.
        classes: Whether they are probabilities of classes.
        scale: What the sums are multiplied with before.
        names: The classes; None: they are numbered.
        features: Name of the input.
        predictions: Name of the output that is no probability.
    """

    link: Link
    classes: bool = False
    scale: float = 1.0
    names: tuple[str | int, ...] | None = None
    features: str = "X"
    predictions: str = "variable"

    def label(self, count: int) -> Array:
        """What each of the classes is called."""
        return np.arange(count) if self.names is None else np.array(self.names)


@dataclass(frozen=True)
class Sums:
    """What a model of boosted trees says of itself, whatever the library.

    Args:
        width: Number of features.
        targets: Number of sums.
        outcome: What becomes of them.
    """

    width: int
    targets: int
    outcome: Outcome


class GraphNodes:
    """`boosting_trees.Nodes` in a graph of its own."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values = {value.name: value for value in graph.inputs}
        self._count = 0

    def constant(self, array: Array) -> str:
        """Add an initializer."""
        name = self._name("constant")
        value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self._graph.initializers.add(value)
        self._values[name] = value
        return name

    def node(self, op_type: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node."""
        kept = {
            name: ir.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in attributes.items()
        }
        node = ir.node(op_type, [self._values[name] for name in inputs], kept, domain=domain)
        name = self._name(op_type)
        node.name = name
        node.outputs[0].name = name
        self._graph.append(node)
        self._values[name] = node.outputs[0]
        return name

    def output(self, value: str, name: str, dtype: ir.DataType, dims: Sequence[int]) -> None:
        """Make a value an output of the graph."""
        made = self._values[value]
        made.name, made.dtype, made.shape = name, dtype, ir.Shape(["batch", *dims])
        self._graph.outputs.append(made)

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"


def build(
    title: str,
    width: int,
    dtype: ir.DataType,
    sums: Callable[[GraphNodes, str], tuple[str, int]],
    outcome: Outcome,
    opset: int | None,
) -> ir.Model:
    """Make a model.

    Args:
        title: Name of the graph.
        width: Number of features.
        dtype: Their type.
        sums: Writes the sums over the trees; gives their name and number.
        outcome: What becomes of them.
        opset: Version of the default operator set.
    """
    features = ir.Value(
        name=outcome.features, type=ir.TensorType(dtype), shape=ir.Shape(["batch", width])
    )
    graph = ir.Graph(
        [features],
        [],
        nodes=[],
        name=title,
        opset_imports={"": opset or _OPSET, ML_DOMAIN: ML_OPSET},
    )
    nodes = GraphNodes(graph)
    raw, targets = sums(nodes, outcome.features)
    write_outcome(nodes, raw, targets, outcome)
    return ir.Model(graph, ir_version=10, producer_name="graphopt")


def write_outcome(nodes: GraphNodes, raw: str, targets: int, outcome: Outcome) -> None:
    """Write the outputs: `label` and `probabilities`, or `variable`."""
    predicted = write_link(nodes, raw, outcome)
    # Sigmoids of large sums are 1, all of them; their order is that of the sums.
    scores = raw if outcome.link == "sigmoid" and outcome.scale > 0 else predicted
    if not outcome.classes:
        nodes.output(predicted, outcome.predictions, ir.DataType.FLOAT, [targets])
        return
    if targets == 1:
        predicted, targets = write_two_classes(nodes, predicted), 2
        scores = predicted
    classes = outcome.label(targets)
    kind = ir.DataType.STRING if classes.dtype.kind == "U" else ir.DataType.INT64
    nodes.output(write_label(nodes, scores, classes), "label", kind, [])
    nodes.output(predicted, "probabilities", ir.DataType.FLOAT, [targets])


def write_link(nodes: Any, raw: str, outcome: Outcome) -> str:
    """Write predictions from the sums over the trees."""
    if outcome.scale != 1:
        raw = nodes.node("Mul", [raw, nodes.constant(np.array([outcome.scale], np.float32))])
    if outcome.link == "softmax":
        return str(nodes.node("Softmax", [raw], axis=1))
    if outcome.link == "sign_square":
        return str(nodes.node("Mul", [raw, nodes.node("Abs", [raw])]))
    if outcome.link == "step":
        positive = nodes.node("Greater", [raw, nodes.constant(np.zeros(1, np.float32))])
        return str(nodes.node("Cast", [positive], to=1))
    operators = {"sigmoid": "Sigmoid", "exp": "Exp", "softplus": "Softplus"}
    return str(nodes.node(operators[outcome.link], [raw])) if outcome.link in operators else raw


def as_category(nodes: Any, features: str, columns: Sequence[int], width: int, dtype: Any) -> str:
    """Cut the fractions off the columns that hold categories, as both libraries do."""
    if not columns:
        return features
    mask = np.zeros((1, width), bool)
    mask[0, list(columns)] = True
    whole = nodes.node("Floor", [nodes.node("Abs", [features])])
    whole = nodes.node("Mul", [nodes.node("Sign", [features]), whole])
    return str(nodes.node("Where", [nodes.constant(mask), whole, features]))


def converted(
    title: str,
    boosted: Sums,
    compared: Samples,
    write: Callable[[GraphNodes, str], str],
    predict: Callable[[Array], Array],
    options: Options,
    *,
    rounds: bool = True,
    notes: Sequence[str] = (),
) -> Conversion:
    """Write a model, and finish the conversion beside the library's own predictions.

    Args:
        title: Name of the graph.
        boosted: What is known of the model.
        compared: Samples.
        write: Writes the sums over the trees; gives their name.
        predict: The library: samples to probabilities of the classes, or predictions.
        options: What to ask for.
        rounds: Whether the library rounds every feature to float32.
        notes: For the user.
    """
    features = compared.features
    dtype, outcome = ir.DataType.from_numpy(features.dtype), boosted.outcome

    def sums(nodes: GraphNodes, name: str) -> tuple[str, int]:
        if rounds and dtype != ir.DataType.FLOAT:
            name = nodes.node("Cast", [name], to=1)
        return write(nodes, name), boosted.targets

    model = build(title, boosted.width, dtype, sums, outcome, options.opset)
    told = [*notes, *compared.notes]
    if outcome.classes:
        kept = decided(predict(features))
        if kept.any() and not kept.all():
            told.append(tie_note(kept))
            features = features[kept]
    return finish(model, [features], _reference(predict, outcome), options, notes=told)


def _reference(predict: Callable[[Array], Array], outcome: Outcome) -> Reference:
    def run(batch: Batch) -> Sequence[Array]:
        exact = predict(next(iter(batch.values())))
        found = exact.astype(np.float32)
        if not outcome.classes:
            return [found]
        names = outcome.label(found.shape[1])
        names = names.astype(object if names.dtype.kind == "U" else np.int64)
        return [names[exact.argmax(axis=1)], found]

    return run
