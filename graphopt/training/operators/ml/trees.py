"""TreeEnsemble, TreeEnsembleClassifier and TreeEnsembleRegressor of ai.onnx.ml.

ONNX leaves open what two classes with one score, or targets without base values, mean; here they
mean what they do in ONNX Runtime.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from graphopt.training.call import Call
from graphopt.training.operators.ml.forest import (
    Forest,
    Reals,
    extreme,
    given,
    leaves,
    summed,
)
from graphopt.training.operators.ml.forest_nodes import by_ids, by_places, reals
from graphopt.training.operators.ml.scores import (
    class_count,
    has_numbers,
    label_of,
    mirrored,
    transformed,
)
from graphopt.training.operators.registry import ML, operator

_LABELS = ("classlabels_int64s", "classlabels_strings")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
"""By number. ONNX has 1 and 2 the other way round, but models run in ONNX Runtime."""

_FORESTS: weakref.WeakKeyDictionary[ir.Node, Forest] = weakref.WeakKeyDictionary()
"""What was read from the attributes of nodes."""


@operator("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(call: Call, rows: torch.Tensor) -> Any:
    """Aggregate what the leaves of all trees say of each target."""
    targets = call.integer("n_targets", 1)
    forest = _forest(call, lambda: by_ids(call, "target", targets, _real_type(rows)))
    base = _base_values(call, targets, forest.weights.dtype)
    aggregate = call.text("aggregate_function", "SUM")
    transform = call.text("post_transform", "NONE")
    return _targets(call, rows, forest, base, aggregate, transform).to(torch.float32)


@operator("TreeEnsemble", domain=ML)
def tree_ensemble(call: Call, rows: torch.Tensor) -> Any:
    """Aggregate what the leaves of all trees say of each target."""
    forest = _forest(call, lambda: by_places(call))
    base = np.zeros(0, forest.weights.dtype)
    aggregate = _AGGREGATES[call.integer("aggregate_function", 1)]
    transform = _TRANSFORMS[call.integer("post_transform", 0)]
    return _targets(call, rows, forest, base, aggregate, transform).to(rows.dtype)


@operator("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(call: Call, rows: torch.Tensor) -> Any:
    """Return the label and the scores of each row."""
    classes = class_count(call, _LABELS)
    forest = _forest(call, lambda: by_ids(call, "class", classes, _real_type(rows)))
    base = _base_values(call, classes, forest.weights.dtype)
    at = _leaves(call, forest, rows)
    scores, known = summed(forest, at), given(forest, at)
    if classes > 2:
        places, found = _several(call, scores, known, base)
    elif classes == 2:
        places, found = _two(call, forest, scores, known, base)
    else:
        places, found = _one(call, scores, base)
    if classes == 1 or (classes == 2 and not _one_sided(forest)):
        # ONNX Runtime gives 1 and 0 here, whatever the labels are.
        labels = places if has_numbers(call, _LABELS) else None
    else:
        labels = label_of(call, places, _LABELS)
    return labels, found.to(torch.float32)


def _several(
    call: Call, scores: torch.Tensor, known: torch.Tensor, base: Reals
) -> tuple[torch.Tensor, torch.Tensor]:
    if len(base):
        scores = scores + torch.from_numpy(base).to(scores.device)
        places = scores.argmax(1)
    else:
        places = torch.where(known, scores, -torch.inf).argmax(1)
    return places, transformed(call, scores, call.text("post_transform", "NONE"))


def _two(
    call: Call, forest: Forest, scores: torch.Tensor, known: torch.Tensor, base: Reals
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute labels and scores of two classes, where leaves may know only one of them."""
    transform = call.text("post_transform", "NONE")
    first, second = scores.unbind(1)
    has_first, has_second = known.unbind(1)
    positive = _one_sided(forest) and not (forest.weights < 0).any()
    if len(base):
        other = first + float(base[1])
        second = torch.where(has_second, other, 0)
        first = torch.where(has_second, -other, first + float(base[0]))
        first = torch.where(has_first, first, 0)
    decisive = torch.where(has_second, second, first)
    winning = decisive > (0.5 if positive else 0)
    pair = transformed(call, torch.stack([first, second], 1), transform)
    if len(base):
        return winning.to(torch.int64), pair
    alone = mirrored(first, transform, positive=positive)
    return winning.to(torch.int64), torch.where(has_second.unsqueeze(1), pair, alone)


def _one_sided(forest: Forest) -> bool:
    """Whether leaves know of one class only."""
    return bool(forest.given.any(axis=0).sum() == 1)


def _one(call: Call, scores: torch.Tensor, base: Reals) -> tuple[torch.Tensor, torch.Tensor]:
    scores = scores + (float(base[0]) if len(base) else 0)
    transform = call.text("post_transform", "NONE")
    found = transformed(call, scores, transform) if transform == "PROBIT" else scores
    return (scores[:, 0] > 0).to(torch.int64), found


def _targets(
    call: Call, rows: torch.Tensor, forest: Forest, base: Reals, aggregate: str, transform: str
) -> torch.Tensor:
    at = _leaves(call, forest, rows)
    if aggregate in ("SUM", "AVERAGE"):
        found = summed(forest, at)
        if aggregate == "AVERAGE":
            found = found / len(forest.roots)
    elif aggregate in ("MIN", "MAX"):
        found = extreme(forest, at, largest=aggregate == "MAX")
    else:
        raise call.refused(f"aggregate_function {aggregate!r} is not known")
    if len(base):
        known = given(forest, at) | (found.shape[1] == 1)
        found = torch.where(known, found + torch.from_numpy(base).to(found.device), 0)
    if found.shape[1] == 1 and transform != "PROBIT":
        transform = "NONE"
    return transformed(call, found, transform)


def _leaves(call: Call, forest: Forest, rows: torch.Tensor) -> torch.Tensor:
    if rows.ndim == 1:
        rows = rows.unsqueeze(0)
    try:
        return leaves(forest, rows, forest.depth)
    except ValueError as error:
        raise call.refused(str(error)) from error


def _forest(call: Call, read: Callable[[], Forest]) -> Forest:
    found = _FORESTS.get(call.node)
    if found is None:
        found = _FORESTS[call.node] = read()
    return found


def _real_type(rows: torch.Tensor) -> np.dtype[Any]:
    return np.dtype(np.float64 if rows.dtype == torch.float64 else np.float32)


def _base_values(call: Call, targets: int, dtype: np.dtype[Any]) -> Reals:
    base = reals(call, "base_values", dtype)
    if len(base) not in (0, targets):
        raise call.refused(f"it has {len(base)} base values for {targets} scores")
    return base
