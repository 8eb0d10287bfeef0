"""LinearClassifier and LinearRegressor of ai.onnx.ml, as ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.ml.scores import (
    class_count,
    has_numbers,
    label_of,
    mirrored,
    transformed,
)
from graphopt.training.operators.registry import ML, operator

_LABELS = ("classlabels_ints", "classlabels_strings")


@operator("LinearRegressor", domain=ML)
def linear_regressor(call: Call, rows: torch.Tensor) -> Any:
    """Return the weighted sums of the features, (rows, targets)."""
    targets = call.integer("targets", 1)
    scores = _weighted(call, rows, targets)
    transform = call.text("post_transform", "NONE")
    if targets == 1 and transform != "PROBIT":
        return scores
    return transformed(call, scores, transform)


@operator("LinearClassifier", domain=ML)
def linear_classifier(call: Call, rows: torch.Tensor) -> Any:
    """Return the label and the scores of each row."""
    columns = len(call.reals("intercepts", []))
    scores = _weighted(call, rows, columns)
    transform = call.text("post_transform", "NONE")
    classes = class_count(call, _LABELS)
    if columns > 1:
        labels = label_of(call, scores.argmax(1), _LABELS)
        return labels, transformed(call, scores, transform)
    alone = scores[:, 0]
    second = (alone > 0).to(torch.int64)
    if classes == 2:
        return label_of(call, second, _LABELS), mirrored(alone, transform, positive=True)
    labels = second if has_numbers(call, _LABELS) else None
    return labels, transformed(call, scores, transform) if transform == "PROBIT" else scores


def _weighted(call: Call, rows: torch.Tensor, columns: int) -> torch.Tensor:
    features = rows.unsqueeze(0) if rows.ndim == 1 else rows
    coefficients = torch.tensor(call.reals("coefficients"), device=rows.device)
    intercepts = call.reals("intercepts", [])
    used = torch.tensor(intercepts, device=rows.device) if len(intercepts) == columns else None
    if columns < 1 or coefficients.numel() % columns:
        raise call.refused(f"its {coefficients.numel()} coefficients are for {columns} scores")
    return functional.linear(features.to(torch.float32), coefficients.reshape(columns, -1), used)
