"""What classical models do to their scores at the end: the `post_transform` of ai.onnx.ml."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from graphopt.training.call import Call

_NEAR_ZERO = 1e-7
"""SOFTMAX_ZERO leaves scores that are no further from zero as they are."""

_WINITZKI = 0.147
"""The constant in the approximation of the inverse error function by S. Winitzki."""

_PI = 3.14159
"""As many digits of it as ONNX Runtime has there."""


def transformed(call: Call, scores: torch.Tensor, name: str) -> torch.Tensor:
    """Apply a `post_transform` to scores of shape (rows, classes), as ONNX Runtime does.

    Raises:
        GraphoptError: There is no such transform.
    """
    transform = _TRANSFORMS.get(name)
    if transform is None:
        raise call.refused(f"post_transform {name!r} is not known")
    return transform(scores)


def mirrored(scores: torch.Tensor, name: str, *, positive: bool) -> torch.Tensor:
    """Turn one score for two classes, (rows,), into two of shape (rows, 2).

    Args:
        scores: Those of the second class.
        name: The `post_transform`; PROBIT changes the score, and leaves the other one at zero.
        positive: Whether the scores are probabilities, of which the two sum to one.
    """
    if name == "PROBIT":
        return torch.stack([probit(scores), torch.zeros_like(scores)], -1)
    if name == "LOGISTIC":
        return torch.sigmoid(torch.stack([-scores, scores], -1))
    return torch.stack([1 - scores if positive else -scores, scores], -1)


def probit(scores: torch.Tensor) -> torch.Tensor:
    """Return the quantiles of the normal distribution, in the approximation of ONNX Runtime."""
    centred = 2 * scores - 1
    logarithm = torch.log((1 - centred) * (1 + centred))
    half = 2 / (_PI * _WINITZKI) + 0.5 * logarithm
    root = torch.sqrt(torch.sqrt(half * half - logarithm / _WINITZKI) - half)
    return math.sqrt(2.0) * torch.where(centred < 0, -root, root)


def _softmax_zero(scores: torch.Tensor) -> torch.Tensor:
    largest = scores.amax(-1, keepdim=True)
    far = scores.abs() > _NEAR_ZERO
    exponentials = torch.exp(scores - largest)
    total = torch.where(far, exponentials, 0).sum(-1, keepdim=True)
    return torch.where(far, exponentials, scores * torch.exp(-largest)) / total


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores, -1)


def _same(scores: torch.Tensor) -> torch.Tensor:
    return scores


_TRANSFORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NONE": _same,
    "SOFTMAX": _softmax,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX_ZERO": _softmax_zero,
    "PROBIT": probit,
}


def label_of(call: Call, places: torch.Tensor, names: tuple[str, str]) -> torch.Tensor | None:
    """Return the labels of classes; None: they are strings, and nothing reads them.

    Args:
        call: The classifier.
        places: Which class each row has.
        names: The attributes that list labels: integers, and strings.

    Raises:
        GraphoptError: The labels are strings.
    """
    if not has_numbers(call, names):
        return None
    return torch.tensor(call.integers(names[0]), device=places.device)[places]


def has_numbers(call: Call, names: tuple[str, str]) -> bool:
    """Whether labels are numbers.

    Raises:
        GraphoptError: They are strings, and something reads them.
    """
    if not call.texts(names[1], []):
        return True
    output = call.node.outputs[0]
    if output.uses() or output.is_graph_output():
        raise call.refused(
            "its labels are strings, and PyTorch has no tensors of them",
            f"drop the output {output.name}, and turn the scores into labels outside of the graph",
        )
    return False


def class_count(call: Call, names: tuple[str, str]) -> int:
    """Return how many labels a classifier lists."""
    integers, texts = names
    return len(call.texts(texts, []) or call.integers(integers, []))
