"""The meta-model of a stack, fitted on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ensembles.expression import Expression, Member, Program, Stack
from graphopt.ensembles.fit.combination import Place, find_stack
from graphopt.ensembles.fit.evaluation import Evaluation
from graphopt.ensembles.fit.folds import folds
from graphopt.ensembles.fit.linear import INPUT, KINDS, Linear, fit_linear, prove
from graphopt.ensembles.fit.scored import Scored, labels_of, members_of
from graphopt.ensembles.text import as_program, unparse
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.metrics import Metric, open_metric

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int | None], None]

_MOST_CLASSES = 1 << 16


_OF_CLASSES = ("accuracy", "auc", "f1-macro", "f1-micro")


@dataclass(frozen=True)
class FittedMeta:
    """A stack with its meta-model.

    Args:
        program: The program; the stack's meta-model is a member that carries its model.
        name: What the program calls it: to build from the text, give the model under this name.
        model: The meta-model: rows to probabilities (logistic) or values (ridge).
        kind: logistic or ridge.
        metric: The name of the metric.
        lower_is_better: Of the metric.
        features: How many columns the rows of the stack have.
        samples: How many there were.
        folds: In how many folds they were held out.
        after: The score on the samples that it was fitted on.
        held_out: Of each sample by a meta-model that was fitted without its fold.
        error: The largest difference between the graph and scikit-learn's own predictions.
        notes: What the user should be told.
    """

    program: Program
    name: str
    model: ir.Model
    kind: str
    metric: str
    lower_is_better: bool
    features: int
    samples: int
    folds: int
    after: float
    held_out: float
    error: float
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The program as text."""
        return unparse(self.program)


def fit_meta(
    program: Program | Expression | str,
    members: Mapping[str, ir.Model],
    feeds: Feeds,
    metric: str | Metric,
    *,
    kind: str = "logistic",
    regularization: float = 1.0,
    fold_count: int = 5,
    seed: int = 0,
    mapping: Mapping[str, str] | None = None,
    providers: Sequence[str] = ("cpu",),
    batch: int = 256,
    progress: Progress = lambda phase, done, total: None,
) -> FittedMeta:
    """Fit the meta-model of the outermost stack that has none.

    The rows of the stack are standardized, scikit-learn fits a linear model on them, and both
    become one Gemm, with a Softmax behind it where the model is logistic. The graph is compared
    with scikit-learn's predictions on all samples before it is returned. Its columns are the class
    numbers 0, 1, 2 and so on.

    Args:
        program: With a `stack(a, b)`.
        members: The models by name; members of the program that carry a model need none.
        feeds: Samples for the ensemble's inputs, with labels, none of them trained on: members are
            too sure of what they have seen.
        metric: Of `runtime.metrics.open_metric`, for the scores.
        kind: "logistic" (multinomial logistic regression) or "ridge".
        regularization: Of the L2 penalty on standardized rows.
        fold_count: Into how many folds the samples are split for the held-out score.
        seed: For the folds and scikit-learn.
        mapping: `member.input` with the name of the ensemble's input that it is.
        providers: Where the members run.
        batch: Samples per run.
        progress: Called with what is being done.

    Raises:
        GraphoptError: There is no such stack, no labels, no scikit-learn, or the data do not fit.
        CheckFailed: The graph does not predict what scikit-learn does.
    """
    if kind not in KINDS:
        raise GraphoptError(f"there is no meta-model {kind!r}", fix=f"use {' or '.join(KINDS)}")
    if not regularization > 0:
        raise GraphoptError(f"a regularization of {regularization:g}", fix="give more than 0")
    rated = open_metric(metric) if isinstance(metric, str) else metric
    if kind == "ridge" and rated.name in _OF_CLASSES:
        raise GraphoptError(
            f"ridge fits numbers, and {rated.name} is of classes",
            fix="fit a logistic meta-model, or take mae, rmse or spearman",
        )
    place = find_stack(as_program(program), rated.output)
    members = members_of(place.program, members)
    labels = labels_of(feeds)
    if kind == "logistic":
        labels = _classes(labels)
    name = _free("meta", members, place.program)
    evaluation = Evaluation(members, feeds, mapping=mapping, providers=providers, batch=batch)
    progress("running members", 0, None)
    rows = _rows(place, evaluation, _free("rows", {**members, name: None}, place.program))
    fitter = _Fitter(rows, labels, kind, regularization, seed)
    linear = fitter.fit(np.arange(len(rows)))
    model = linear.model(name)
    error = prove(linear, model, rows)
    parts = list(folds(labels, fold_count, seed, stratified=kind == "logistic"))
    evaluation.add(name, model)
    scored = Scored(evaluation, _with(place, name), labels_of(feeds), rated)
    held: dict[str, Array] = {}
    for number, (kept, out) in enumerate(parts):
        progress("fitting without a fold", number, len(parts))
        other = _free(f"{name}_{number}", {**members, name: None}, place.program)
        evaluation.add(other, fitter.fit(kept).model(other))
        outputs = evaluation.outputs(_with(place, other))
        for output in scored.like.arrays:
            held.setdefault(output, np.empty_like(outputs[output]))[out] = outputs[output][out]
    return FittedMeta(
        program=_with(place, name, model),
        name=name,
        model=model,
        kind=kind,
        metric=rated.name,
        lower_is_better=rated.lower_is_better,
        features=rows.shape[1],
        samples=len(rows),
        folds=fold_count,
        after=scored.before,
        held_out=scored.score(held),
        error=error,
        notes=_notes(linear),
    )


class _Fitter:
    """Fits meta-models on samples of the same rows."""

    def __init__(
        self, rows: Array, labels: Array, kind: str, regularization: float, seed: int
    ) -> None:
        if len(rows) != len(labels):
            raise GraphoptError(f"{len(rows)} rows of the stack have {len(labels)} labels")
        if not np.isfinite(rows).all():
            raise GraphoptError("the rows of the stack hold values that are not finite")
        self._rows = rows
        self._labels = labels
        self._kind = kind
        self._columns = int(labels.max()) + 1 if kind == "logistic" else 0
        self._regularization = regularization
        self._seed = seed

    def fit(self, samples: npt.NDArray[np.int64]) -> Linear:
        """Fit on some of the samples."""
        return fit_linear(
            self._rows[samples],
            self._labels[samples],
            self._kind,
            columns=self._columns,
            regularization=self._regularization,
            seed=self._seed,
        )


def _with(place: Place, name: str, model: ir.Model | None = None) -> Program:
    assert isinstance(place.target, Stack)
    return place.with_(dataclasses.replace(place.target, meta=Member(name, model)))


def _rows(place: Place, evaluation: Evaluation, name: str) -> Array:
    """Return what the meta-model will be fed, for all samples; a member of the name echoes it."""
    assert isinstance(place.target, Stack)
    evaluation.add(name, _echo())
    stack = dataclasses.replace(place.target, meta=Member(name))
    (rows,) = evaluation.outputs(place.alone(stack)).values()
    return rows


def _echo() -> ir.Model:
    """Make a meta-model that returns its rows."""
    rows = ir.Value(
        name=INPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", "features"])
    )
    node = ir.Node("", "Identity", [rows])
    output = node.outputs[0]
    output.name, output.type, output.shape = "rows", rows.type, rows.shape
    graph = ir.Graph([rows], [output], nodes=[node], opset_imports={"": 13}, name="rows")
    return ir.Model(graph, ir_version=7)


def _classes(labels: Array) -> Array:
    """Return labels as class numbers.

    Raises:
        GraphoptError: They are none.
    """
    if labels.ndim == 2 and labels.shape[1] > 1 and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    labels = labels.ravel() if labels.ndim == 2 and labels.shape[1] == 1 else labels
    whole = labels.dtype.kind in "iub" or (
        labels.dtype.kind == "f" and np.array_equal(labels, np.floor(labels))
    )
    if labels.ndim != 1 or not whole or labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        raise GraphoptError(
            f"a logistic meta-model needs class numbers from 0, one for each sample, not labels"
            f" of {labels.dtype}{list(labels.shape)}",
            fix="number the classes, or fit a ridge",
        )
    return labels.astype(np.int64)


def _free(name: str, members: Iterable[str], program: Program) -> str:
    taken = {*members, *(statement for statement, _ in program.statements)}
    taken.update(part.name for part in program.walk() if isinstance(part, Member))
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _notes(linear: Linear) -> tuple[str, ...]:
    notes = list(linear.warned)
    missing = set(range(linear.bias.size)) - set(linear.columns)
    if linear.kind == "logistic" and missing:
        listed = ", ".join(map(str, sorted(missing)[:10]))
        notes.append(f"no sample is of class {listed}: the meta-model never predicts it")
    return tuple(notes)
