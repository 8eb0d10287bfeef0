"""Models of boosted trees: the graph, samples, and the comparison that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.convert.boosting_trees import ML_DOMAIN, ML_OPSET, write_label, write_two_classes
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import finish
from graphopt.convert.parity import Reference
from graphopt.convert.ties import decided, tie_note
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch, open_feeds

Link = Literal["identity", "sigmoid", "softmax", "exp", "softplus", "sign_square", "step"]

_OPSET = 21
_SAMPLES = 29
_MISSING = 5
"""Every so many values of a made-up sample are missing."""


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
    if not outcome.classes:
        nodes.output(predicted, outcome.predictions, ir.DataType.FLOAT, [targets])
        return
    if targets == 1:
        predicted, targets = write_two_classes(nodes, predicted), 2
    classes = outcome.label(targets)
    kind = ir.DataType.STRING if classes.dtype.kind == "U" else ir.DataType.INT64
    nodes.output(write_label(nodes, predicted, classes), "label", kind, [])
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


def samples(
    width: int, splits: Sequence[tuple[int, float]], categories: dict[int, int], options: Options
) -> Array:
    """Take samples of `--data`, or make some up in the range of the thresholds, and beyond.

    Args:
        width: Number of features.
        splits: Feature and threshold of every split.
        categories: By feature: the largest category.
        options: With the data.

    Raises:
        GraphoptError: The data has another width, or several arrays.
    """
    if options.data is not None:
        return _from_data(options.data, width)
    random = np.random.default_rng(0)
    values = random.normal(size=(_SAMPLES, width))
    by_feature: dict[int, list[float]] = {}
    for feature, split in splits:
        by_feature.setdefault(feature, []).append(split)
    for feature, found in by_feature.items():
        limits = np.clip([min(found), max(found)], -1e30, 1e30)
        margin = 0.1 * (limits[1] - limits[0]) + 0.5
        values[:, feature] = random.uniform(limits[0] - margin, limits[1] + margin, _SAMPLES)
        # Every third sample sits on a threshold, where a rounding error would show.
        values[::3, feature] = random.choice(np.clip(found, -1e30, 1e30), len(values[::3]))
    for feature, largest in categories.items():
        values[:, feature] = random.integers(-1, largest + 2, _SAMPLES)
    values[_MISSING - 1 :: _MISSING][random.random((_SAMPLES // _MISSING, width)) < 0.5] = np.nan
    return values.astype(np.float32)


def _from_data(data: str, width: int) -> Array:
    batch = next(open_feeds(data).batches(_SAMPLES))
    if len(batch) != 1:
        raise GraphoptError(f"has {', '.join(batch)}; the model takes one array", file=data)
    array = next(iter(batch.values()))
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "fiub":
        raise GraphoptError(
            f"holds {array.dtype}{list(array.shape)}; the model takes numbers of shape"
            f" [batch, {width}]",
            file=data,
        )
    return array if array.dtype == np.float64 else array.astype(np.float32)


def converted(
    title: str,
    boosted: Sums,
    features: Array,
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
        features: Samples.
        write: Writes the sums over the trees; gives their name.
        predict: The library: samples to probabilities of the classes, or predictions.
        options: What to ask for.
        rounds: Whether the library rounds every feature to float32.
        notes: For the user.
    """
    dtype, outcome = ir.DataType.from_numpy(features.dtype), boosted.outcome

    def sums(nodes: GraphNodes, name: str) -> tuple[str, int]:
        if rounds and dtype != ir.DataType.FLOAT:
            name = nodes.node("Cast", [name], to=1)
        return write(nodes, name), boosted.targets

    model = build(title, boosted.width, dtype, sums, outcome, options.opset)
    told = list(notes)
    if outcome.classes:
        kept = decided(predict(features))
        if kept.any() and not kept.all():
            told.append(tie_note(kept))
            features = features[kept]
    return finish(model, [features], _reference(predict, outcome), options, notes=told)


def _reference(predict: Callable[[Array], Array], outcome: Outcome) -> Reference:
    def run(batch: Batch) -> Sequence[Array]:
        found = predict(next(iter(batch.values()))).astype(np.float32)
        if not outcome.classes:
            return [found]
        names = outcome.label(found.shape[1])
        names = names.astype(object if names.dtype.kind == "U" else np.int64)
        return [names[found.argmax(axis=1)], found]

    return run
