"""Weights of an ensemble, fitted on labelled data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ensembles.expression import Expression, Program, Sum
from graphopt.ensembles.fit.combination import find, weighted, without
from graphopt.ensembles.fit.coordinate import search
from graphopt.ensembles.fit.direct import direct
from graphopt.ensembles.fit.evaluation import Evaluation, Outputs, Rows
from graphopt.ensembles.fit.fitted import Fitted, FittedLoss, Share
from graphopt.ensembles.fit.folds import folds
from graphopt.ensembles.fit.objective import Loss, Unfit
from graphopt.ensembles.fit.scored import Scored, labels_of, members_of
from graphopt.ensembles.fit.selection import select
from graphopt.ensembles.fit.simplex import minimize, rounded
from graphopt.ensembles.text import as_program, unparse
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.metrics import Metric, open_metric

METHODS = ("convex", "coordinate", "selection")

_EXACT = 12
"""Decimals that hold every fitted weight."""

Units = tuple[int, ...]
Array = npt.NDArray[Any]
Progress = Callable[[str, int, int | None], None]


def fit_weights(
    program: Program | Expression | str,
    members: Mapping[str, ir.Model],
    feeds: Feeds,
    metric: str | Metric,
    *,
    method: str | None = None,
    digits: int = 3,
    fold_count: int = 5,
    seed: int = 0,
    mapping: Mapping[str, str] | None = None,
    providers: Sequence[str] = ("cpu",),
    batch: int = 256,
    progress: Progress = lambda phase, done, total: None,
) -> Fitted:
    """Fit the weights of the outermost sum, mean, geometric mean or vote of a program.

    The weights are at least 0, sum to 1, and are rounded before they are scored. They are kept
    only where the metric is not worse than with equal weights.

    Args:
        program: What is computed; its own weights are forgotten.
        members: The models by name; members of the program that carry a model need none.
        feeds: Samples for the ensemble's inputs, with labels, none of them trained on.
        metric: Of `runtime.metrics.open_metric`; its output is one of the program's.
        method: "convex": the log loss (or squared error, where labels are numbers) is minimized,
            to the optimum. "coordinate": the metric itself, one weight at a time. "selection":
            operands are added again and again while the metric gains (Caruana et al. 2004). None:
            convex where there is such a loss, else coordinate.
        digits: Decimals of the weights.
        fold_count: Into how many folds the samples are split for the held-out score.
        seed: For folds, starts and bags.
        mapping: `member.input` with the name of the ensemble's input that it is.
        providers: Where the members run.
        batch: Samples per run.
        progress: Called with what is being done.

    Raises:
        GraphoptError: There is nothing to fit, no labels, or the data do not fit.
    """
    if method not in (None, *METHODS):
        raise GraphoptError(f"there is no method {method!r}", fix=f"use {', '.join(METHODS)}")
    if not 1 <= digits <= 9:
        raise GraphoptError(f"weights of {digits} digits", fix="give 1 to 9")
    wanted = as_program(program)
    everyone = members_of(wanted, members)
    evaluation = Evaluation(everyone, feeds, mapping=mapping, providers=providers, batch=batch)
    rated = open_metric(metric) if isinstance(metric, str) else metric
    scored = Scored(evaluation, wanted, labels_of(feeds), rated)
    fitting = _Fitting(scored, method, 10**digits, seed, progress)
    return fitting.run(fold_count)


class _Fitting:
    """The search for the weights of one combination."""

    def __init__(
        self, scored: Scored, method: str | None, units: int, seed: int, progress: Progress
    ) -> None:
        self._scored = scored
        self._found = find(scored.program, scored.metric.output)
        self._count = len(self._found.operands)
        self._units = units
        self._seed = seed
        self._progress = progress
        self._notes: list[str] = []
        self._alone = [
            scored.evaluation.outputs(self._found.alone(operand))
            for operand in self._found.operands
        ]
        names = tuple(scored.like.arrays)
        self._direct = (
            direct(self._found, self._alone, scored.evaluation, names[0])
            if len(names) == 1
            else None
        )
        self._loss = self._convex(method) if method in (None, "convex") else None
        self._method = method or ("convex" if self._loss is not None else "coordinate")
        self._all = np.arange(len(scored.labels))

    def run(self, fold_count: int) -> Fitted:
        """Fit on all samples, and on all but each fold."""
        scored = self._scored
        self._progress("fitting weights", 0, fold_count + 1)
        units, loss = self._fit(self._all, self._notes)
        held: dict[str, Array] = {}
        parts = folds(scored.labels, fold_count, self._seed, stratified=scored.stratified)
        for number, (rows, out) in enumerate(parts, 1):
            self._progress("fitting weights without a fold", number, fold_count + 1)
            outputs = self._outputs(self._fit(rows, [])[0], out)
            for name in scored.like.arrays:
                array = outputs[name]
                place = held.setdefault(
                    name, np.empty((self._all.size, *array.shape[1:]), array.dtype)
                )
                place[out] = array
        self._progress("fitting weights", fold_count + 1, fold_count + 1)
        shares = self._shares(units)
        program = self._pruned(units, shares)
        self._note_total()
        return Fitted(
            program=program,
            metric=scored.metric.name,
            lower_is_better=scored.metric.lower_is_better,
            method=self._method,
            shares=shares,
            samples=self._all.size,
            folds=fold_count,
            before=scored.before,
            equal=self._score(self._equal(), self._all),
            after=scored.score(scored.evaluation.outputs(program)),
            held_out=scored.score(held),
            loss=loss,
            notes=tuple(self._notes),
        )

    def _fit(self, rows: Rows, notes: list[str]) -> tuple[Units, FittedLoss | None]:
        """Fit on some samples; equal weights where the metric is worse for it."""
        loss = None
        if self._method == "convex":
            found, loss = self._minimized(rows)
        elif self._method == "coordinate":
            found = search(
                lambda units: self._gain(units, rows), self._count, self._units, self._seed
            )
        else:
            counts = select(lambda counts: self._gain(counts, rows), self._count, self._seed)
            found = rounded(np.array(counts, np.float64), self._units)
        return self._kept(found, rows, notes), loss

    def _kept(self, found: Units, rows: Rows, notes: list[str]) -> Units:
        """Return the weights, or equal or the given ones where those score higher."""
        best, name = found, ""
        for other, title in ((self._equal(), "equal weights"), (self._given(), "the given ones")):
            if self._gain(best, rows) < self._gain(other, rows):
                best, name = other, title
        if name:
            notes.append(
                f"{self._method} weights {[unit / self._units for unit in found]} score"
                f" {self._score(found, rows):.6g} in {self._scored.metric.name}, worse than {name},"
                " which were kept"
            )
        return best

    def _given(self) -> Units:
        """Return the weights of the program, or equal ones where they are no shares."""
        given = np.array(self._found.weights)
        if given.min() < 0 or not given.sum():
            return self._equal()
        return rounded(given, self._units)

    def _minimized(self, rows: Rows) -> tuple[Units, FittedLoss]:
        assert self._loss is not None
        objective = self._loss.objective(rows)
        solution = minimize(objective, self._count)
        equal = objective(np.full(self._count, 1.0 / self._count))[0]
        told = FittedLoss(self._loss.name, equal, solution.value, solution.gap)
        return rounded(solution.weights, self._units), told

    def _equal(self) -> Units:
        return rounded(np.ones(self._count), self._units)

    def _gain(self, units: Units, rows: Rows) -> float:
        return self._scored.gain(self._score(units, rows))

    def _score(self, units: Units, rows: Rows) -> float:
        return self._scored.score(self._outputs(units, rows), rows)

    def _written(self, units: Units) -> tuple[float, ...] | None:
        """Return weights for a program; None for equal ones: 0.334 and 0.333 are not, in a vote."""
        if units == self._equal() and not isinstance(self._found.combination, Sum):
            return None
        total = sum(units)
        return tuple(round(unit / total, _EXACT) for unit in units)

    def _outputs(self, units: Units, rows: Rows) -> Outputs:
        """Compute the program with weights, for some samples."""
        weights = self._written(units)
        if self._direct is not None:
            (name,) = self._scored.like.arrays
            return {name: self._direct.compute(weights, rows)}
        outputs = self._scored.evaluation.outputs(self._found.weighted(weights))
        return {name: outputs[name][rows] for name in self._scored.like.arrays}

    def _convex(self, method: str | None) -> Loss | None:
        try:
            return Loss(
                self._found,
                [self._looked_at(outputs) for outputs in self._alone],
                self._scored.labels,
                numbers=self._scored.numbers,
            )
        except Unfit as reason:
            if method is not None:
                raise GraphoptError(
                    f"weights cannot be fitted by a convex loss: {reason}",
                    fix="use the method coordinate or selection",
                ) from None
            self._notes.append(f"weights were fitted by coordinates: {reason}")
            return None

    def _looked_at(self, outputs: Outputs) -> Array:
        """Return the output of an operand that the metric sees."""
        wanted = (self._found.output, *self._scored.like.arrays)
        name = next((name for name in wanted if name in outputs), next(iter(outputs)))
        return outputs[name]

    def _shares(self, units: Units) -> tuple[Share, ...]:
        shares = []
        for index, operand in enumerate(self._found.operands):
            only = tuple(self._units * (place == index) for place in range(self._count))
            weight = round(units[index] / self._units, _EXACT)
            shares.append(Share(unparse(operand), weight, self._score(only, self._all)))
        return tuple(shares)

    def _pruned(self, units: Units, shares: Sequence[Share]) -> Program:
        """Write the program, without operands of weight 0 where the names of the outputs stay."""
        combination = weighted(self._found.combination, self._written(units))
        zeros = [index for index, unit in enumerate(units) if not unit]
        for dropped in (zeros, [index for index in zeros if index]):
            if not dropped:
                continue
            pruned = self._found.with_(without(combination, dropped))
            if tuple(self._scored.evaluation.outputs(pruned)) == self._scored.names:
                names = ", ".join(shares[index].operand for index in dropped)
                left = "was" if len(dropped) == 1 else "were"
                self._notes.append(f"{names} got the weight 0 and {left} left out")
                return pruned
        return self._found.with_(combination)

    def _note_total(self) -> None:
        combination, total = self._found.combination, math.fsum(self._found.weights)
        if isinstance(combination, Sum) and not math.isclose(total, 1.0, abs_tol=1e-6):
            self._notes.append(f"the weights summed to {total:g} before, and sum to 1 now")
