"""SVMClassifier and SVMRegressor of ai.onnx.ml, as ONNX Runtime computes them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.ml.scores import (
    class_count,
    label_of,
    mirrored,
    transformed,
)
from graphopt.training.operators.registry import ML, operator

_LABELS = ("classlabels_ints", "classlabels_strings")
_STEPS = 100
"""How often the probabilities of classes are improved at most."""

_PRECISION = 0.005
"""Where that ends, by number of classes."""

_SMALLEST = 1e-7
"""No probability of one class against another is smaller."""


@operator("SVMRegressor", domain=ML)
def svm_regressor(call: Call, rows: torch.Tensor) -> Any:
    """Return the decision function, (rows, 1), or for one class its sign."""
    rows = _matrix(rows)
    coefficients = _reals(call, "coefficients", rows)
    vectors = call.integer("n_supports", 0)
    if vectors:
        support = _reals(call, "support_vectors", rows).reshape(vectors, -1)
        near = _kernel(call, rows, support)
    else:
        near = rows
    scores = functional.linear(near, coefficients.reshape(1, -1)) + call.reals("rho")[0]
    if call.integer("one_class", 0):
        return torch.where(scores > 0, 1.0, -1.0)
    return scores


@operator("SVMClassifier", domain=ML)
def svm_classifier(call: Call, rows: torch.Tensor) -> Any:
    """Return the label and the scores of each row."""
    rows = _matrix(rows)
    classes = class_count(call, _LABELS)
    counts = call.integers("vectors_per_class", [])
    if not sum(counts):
        return _linear(call, rows, classes)
    if len(counts) != classes or classes < 2:
        raise call.refused(f"it has {classes} labels, and support vectors of {len(counts)} classes")
    scores = _duels(call, rows, counts)
    pairs = list(combinations(range(classes), 2))
    won = torch.tensor([[each == i for each in range(classes)] for i, _ in pairs])
    lost = torch.tensor([[each == j for each in range(classes)] for _, j in pairs])
    ahead = (scores > 0).unsqueeze(-1)
    votes = torch.where(ahead, won.to(rows.device), lost.to(rows.device)).sum(1)
    labels = label_of(call, votes.argmax(1), _LABELS)
    transform = call.text("post_transform", "NONE")
    if call.reals("prob_a", []):
        return labels, transformed(call, _probabilities(call, scores, classes), transform)
    if classes > 2:
        return labels, transformed(call, scores, transform)
    return labels, mirrored(scores[:, 0], transform, positive=transform != "NONE")


def _linear(call: Call, rows: torch.Tensor, classes: int) -> tuple[Any, torch.Tensor]:
    coefficients = _reals(call, "coefficients", rows)
    scores = functional.linear(rows, coefficients.reshape(classes, -1)) + call.reals("rho")[0]
    places = scores.argmax(1)
    if classes == 2 and not call.reals("prob_a", []):
        positive = min(call.reals("coefficients")) >= 0
        largest = scores.amax(1)
        places = places | (largest >= 0.5 if positive else largest > 0)
    transform = call.text("post_transform", "NONE")
    labels = label_of(call, places, _LABELS)
    if classes == 1 and transform != "PROBIT":
        return labels, scores
    return labels, transformed(call, scores, transform)


def _duels(call: Call, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return for each pair of classes how far a row is on the first one's side."""
    classes, vectors = len(counts), sum(counts)
    near = _kernel(call, rows, _reals(call, "support_vectors", rows).reshape(vectors, -1))
    held = np.array(call.reals("coefficients"), np.float32)[: (classes - 1) * vectors]
    coefficients = held.reshape(classes - 1, vectors)
    starts = np.cumsum([0, *counts])
    pairs = list(combinations(range(classes), 2))
    weights = np.zeros((len(pairs), vectors))
    for pair, (i, j) in enumerate(pairs):
        for one, other in ((i, j - 1), (j, i)):
            own = slice(starts[one], starts[one + 1])
            weights[pair, own] = coefficients[other, own]
    offsets = torch.tensor(call.reals("rho")[: len(pairs)], dtype=torch.float64)
    sums = functional.linear(near.double(), torch.from_numpy(weights).to(rows.device))
    return (sums + offsets.to(rows.device)).to(torch.float32)


def _kernel(call: Call, rows: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Compare rows with support vectors, (rows, vectors)."""
    kind = call.text("kernel_type", "LINEAR")
    gamma, offset, degree = (*call.reals("kernel_params", []), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        # What subtracts squares loses the digits of small distances.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.exp(-gamma * torch.cdist(rows, support, compute_mode=exact).square())
    products = functional.linear(rows, support)
    if kind == "POLY":
        return torch.pow(gamma * products + offset, degree)
    if kind == "SIGMOID":
        return torch.tanh(gamma * products + offset)
    if kind == "LINEAR":
        return products
    raise call.refused(f"kernel_type {kind!r} is not known")


def _probabilities(call: Call, scores: torch.Tensor, classes: int) -> torch.Tensor:
    """Couple the probabilities of pairs of classes.

    The second method of Wu, Lin and Weng, "Probability Estimates for Multi-class Classification by
    Pairwise Coupling" (JMLR 5, 2004), with the bounds of LIBSVM.
    """
    slope, offset = _reals(call, "prob_a", scores), _reals(call, "prob_b", scores)
    pairs = scores.shape[1]
    first = torch.sigmoid(-(scores * slope[:pairs] + offset[:pairs]))
    first = first.clamp(_SMALLEST, 1 - _SMALLEST)
    zero = torch.zeros_like(scores[:, 0])
    against = [[zero] * classes for _ in range(classes)]
    for pair, (i, j) in enumerate(combinations(range(classes), 2)):
        against[i][j], against[j][i] = first[:, pair], 1 - first[:, pair]
    matrix = torch.stack([torch.stack(each, -1) for each in against], 1)
    own = matrix.square().sum(1)
    quadratic = torch.diag_embed(own) - matrix.transpose(1, 2) * matrix
    chances = torch.full_like(own, 1 / classes)
    done = torch.zeros_like(zero, dtype=torch.bool)
    if torch.compiler.is_compiling():
        step = torch.zeros((), dtype=torch.int64, device=chances.device)
        run: Any = while_loop
        _, coupled, _ = run(
            lambda step, _, done: (step < _STEPS) & ~done.all(),
            lambda step, chances, done: (step + 1, *_coupled(quadratic, chances, done)),
            (step, chances, done),
        )
        found: torch.Tensor = coupled
        return found
    for _ in range(_STEPS):
        chances, done = _coupled(quadratic, chances, done)
        if bool(done.all()):
            break
    return chances


def _coupled(
    quadratic: torch.Tensor, chances: torch.Tensor, done: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Improve the probabilities of the rows whose ones are not good yet, and tell which are."""
    product = torch.matmul(quadratic, chances.unsqueeze(-1)).squeeze(-1)
    total = (chances * product).sum(1)
    error = (product - total.unsqueeze(1)).abs().amax(1)
    done = done | (error < _PRECISION / chances.shape[1])
    improved = _improved(quadratic, chances, product, total)
    return torch.where(done.unsqueeze(1), chances, improved), done


def _improved(
    quadratic: torch.Tensor, chances: torch.Tensor, product: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    for each in range(chances.shape[1]):
        own = quadratic[:, each, each]
        step = (total - product[:, each]) / own
        own_axis = torch.arange(chances.shape[1], device=chances.device) == each
        moved = chances + own_axis * step.unsqueeze(1)
        scale = 1 + step
        total = (total + step * (step * own + 2 * product[:, each])) / scale / scale
        column = quadratic[:, each]
        product = (product + step.unsqueeze(1) * column) / scale.unsqueeze(1)
        chances = moved / scale.unsqueeze(1)
    return chances


def _matrix(rows: torch.Tensor) -> torch.Tensor:
    return (rows.unsqueeze(0) if rows.ndim == 1 else rows).to(torch.float32)


def _reals(call: Call, name: str, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(call.reals(name), dtype=torch.float32, device=like.device)
