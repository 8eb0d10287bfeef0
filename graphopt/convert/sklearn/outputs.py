"""What an estimator gives: outputs, and scikit-learn's own values for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.interface import avoid_clashes
from graphopt.convert.sklearn.boosting import is_boosted
from graphopt.convert.sklearn.reference import Form, Output
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Array, Batch
from graphopt.runtime.session import Session


def last_of(estimator: Any) -> Any:
    """Return the estimator that gives the outputs: the last step, the best of a search."""
    kind = type(estimator).__name__
    if kind == "Pipeline":
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        return last_of(steps[-1]) if steps else estimator
    if kind.endswith("SearchCV") and hasattr(estimator, "best_estimator_"):
        return last_of(estimator.best_estimator_)
    return estimator


def outputs_of(estimator: Any, source: str) -> tuple[Output, ...]:
    """Name the outputs.

    Raises:
        GraphoptError: It is no fitted estimator, or gives nothing that a graph could.
    """
    _check_fitted(estimator, source)
    last = last_of(estimator)
    kind = getattr(last, "_estimator_type", None) or _tag(last)
    if kind == "classifier":
        return (Output("label", "predict"), *_scores(last))
    if kind == "outlier_detector":
        return Output("label", "predict"), Output("scores", "decision_function")
    if kind == "clusterer" and hasattr(last, "transform"):
        return Output("label", "predict"), Output("scores", "transform")
    if kind == "regressor" or not hasattr(last, "transform"):
        if not hasattr(last, "predict"):
            raise GraphoptError(
                f"{type(last).__name__} has neither predict nor transform", file=source
            )
        return (Output("variable", "predict"),)
    return (Output("variable", "transform"),)


def _tag(estimator: Any) -> str | None:
    from sklearn.utils import get_tags

    try:
        kind: str | None = get_tags(estimator).estimator_type
    except (AttributeError, ValueError, TypeError):
        return None
    return kind


def _scores(last: Any) -> tuple[Output, ...]:
    classes = getattr(last, "classes_", None)
    several = isinstance(classes, list) and len(classes) > 1
    if hasattr(last, "predict_proba"):
        if several:
            return tuple(
                Output(f"probabilities_{part}", "predict_proba", part)
                for part in range(len(classes or ()))
            )
        return (Output("probabilities", "predict_proba"),)
    if hasattr(last, "decision_function") and not several:
        return (Output("scores", "decision_function"),)
    return ()


def _check_fitted(estimator: Any, source: str) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if is_boosted(estimator):
        # CatBoost follows scikit-learn without inheriting from it.
        return
    if not isinstance(estimator, BaseEstimator):
        raise GraphoptError(
            f"holds a {type(estimator).__name__}, not an estimator of scikit-learn",
            file=source,
            fix="save the estimator or pipeline itself",
        )
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise GraphoptError(
            f"the {type(estimator).__name__} is not fitted", file=source, fix="fit it first"
        ) from error


def settle_outputs(
    model: ir.Model,
    estimator: Any,
    wanted: Sequence[Output],
    batch: Batch,
    source: str,
    *,
    rounds: bool = False,
) -> list[Form]:
    """Make plain tensors of what was exported, under the names that are wanted.

    Args:
        model: What was exported. It is edited.
        estimator: Whose outputs they are.
        wanted: Which ones.
        batch: Example inputs.
        source: What messages call the estimator.
        rounds: Whether float64 outputs become float32.

    Returns:
        The form of each output.
    """
    try:
        _rewire(model, estimator, wanted, batch)
        classes = getattr(last_of(estimator), "classes_", None)
        if wanted[0].name == "label" and np.dtype(bool) == getattr(classes, "dtype", None):
            _cast_output(model, 0, ir.DataType.BOOL)
        if rounds:
            for index, value in enumerate(model.graph.outputs):
                if value.dtype == ir.DataType.DOUBLE:
                    _cast_output(model, index, ir.DataType.FLOAT)
        found = Session(model, title="what skl2onnx makes of it").run(batch)
    except CheckFailed as error:
        raise GraphoptError(
            f"skl2onnx cannot write the {type(last_of(estimator)).__name__}: {error}", file=source
        ) from error
    for value, array in zip(model.graph.outputs, found.values(), strict=True):
        value.shape = ir.Shape(["batch", *array.shape[1:]])
    return [
        Form(
            array.ndim, array.shape[-1], np.dtype(object) if array.dtype == object else array.dtype
        )
        for array in found.values()
    ]


def _cast_output(model: ir.Model, index: int, dtype: ir.DataType) -> None:
    """Let an output have another type, and its name."""
    graph = model.graph
    value = graph.outputs[index]
    node = ir.node("Cast", [value], attributes={"to": int(dtype)})
    node.outputs[0].dtype = dtype
    node.outputs[0].name, value.name = value.name, f"{value.name}_before_cast"
    graph.append(node)
    graph.outputs[index] = node.outputs[0]
    avoid_clashes(model)


def _rewire(model: ir.Model, estimator: Any, wanted: Sequence[Output], batch: Batch) -> None:
    graph = model.graph
    remove_zipmaps(graph)
    outputs = list(graph.outputs)
    names = {value.name for value in outputs}
    parts = [item for item in wanted if item.part is not None]
    joined = _joined(outputs[1], len(parts)) if parts else None
    if joined is not None:
        outputs = [outputs[0], *_taken_apart(graph, joined, parts, last_of(estimator).classes_)]
    elif parts:
        found = Session(model, title="the exported model").run(batch)
        scores = outputs[1]
        classes = last_of(estimator).classes_
        made = [
            _part(graph, scores, item, found[scores.name or ""], len(own))
            for item, own in zip(parts, classes, strict=True)
        ]
        outputs = [outputs[0], *made]
    del outputs[len(wanted) :]
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    if joined is not None:
        graph.remove(joined, safe=True)
    for value, item in zip(outputs, wanted, strict=True):
        if item.name not in names or value.name != item.name:
            value.name = item.name
    avoid_clashes(model)


def remove_zipmaps(graph: ir.Graph) -> None:
    """Let outputs be what a ZipMap makes dictionaries of."""
    for node in list(graph):
        if node.op_type == "ZipMap":
            plain, mapped = node.inputs[0], node.outputs[0]
            assert plain is not None
            for position, value in enumerate(graph.outputs):
                if value is mapped:
                    graph.outputs[position] = plain
                    name, mapped.name = mapped.name, None
                    plain.name = name
            graph.remove(node, safe=True)


def _joined(scores: ir.Value, targets: int) -> ir.Node | None:
    """The node that joins the probabilities of all targets; None: there is no such."""
    node = scores.producer()
    if node is None or node.op_type != "Concat" or node.attributes.get_int("axis") != 0:
        return None
    return node if len(node.inputs) == targets and not scores.uses() else None


def _taken_apart(
    graph: ir.Graph, joined: ir.Node, parts: Sequence[Output], classes: Sequence[Array]
) -> list[ir.Value]:
    """Take each target's probabilities from where they are not joined yet, (1, batch, classes).

    Those with different numbers of classes cannot be joined, although skl2onnx does.
    """
    made = []
    for value, item, own in zip(joined.inputs, parts, classes, strict=True):
        shape = ir.tensor(np.array([-1, len(own)], np.int64))
        target = ir.Value(name=f"{item.name}_shape", const_value=shape)
        graph.initializers.add(target)
        node = ir.node("Reshape", [value, target])
        node.outputs[0].type = joined.outputs[0].type
        graph.append(node)
        made.append(node.outputs[0])
    return made


def _part(graph: ir.Graph, scores: ir.Value, item: Output, found: Any, classes: int) -> ir.Value:
    """Take one target's probabilities out of a sequence, or out of (targets, batch, classes)."""
    assert item.part is not None

    def constant(what: str, number: list[int] | int) -> ir.Value:
        value = ir.Value(
            name=f"{item.name}_{what}", const_value=ir.tensor(np.array(number, np.int64))
        )
        graph.initializers.add(value)
        return value

    dtype = ir.DataType.from_numpy(np.asarray(found[item.part]).dtype)
    index = constant("index", item.part)
    if isinstance(found, list):
        node = ir.node("SequenceAt", [scores, index])
        graph.append(node)
    else:
        chosen = ir.node("Gather", [scores, index], attributes={"axis": 0})
        chosen.outputs[0].dtype = dtype
        # A target with fewer classes than others is filled up with zeros.
        bounds = [
            constant(what, at) for what, at in (("start", [0]), ("end", [classes]), ("axis", [1]))
        ]
        node = ir.node("Slice", [chosen.outputs[0], *bounds])
        graph.extend([chosen, node])
    node.outputs[0].dtype = dtype
    return node.outputs[0]
