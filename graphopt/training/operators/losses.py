"""Losses of classification."""

from __future__ import annotations

import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.operators.registry import operator

_NOTHING_IGNORED = -100
"""A class that no label can name."""


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(
    call: Call, log_prob: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean, sum or each of the negated log-probabilities of labels.

    Args:
        call: The node.
        log_prob: `(batch, classes, ...)`.
        labels: `(batch, ...)`, integers.
        weight: One for each class; the mean is divided by the sum of those that count.
    """
    # PyTorch has no losses of half precision on the CPU.
    narrow = log_prob.dtype.itemsize < 4
    loss = functional.nll_loss(
        log_prob.to(torch.float32) if narrow else log_prob,
        labels.to(torch.int64),
        weight.to(torch.float32) if narrow and weight is not None else weight,
        ignore_index=call.integer("ignore_index", _NOTHING_IGNORED),
        reduction=call.text("reduction", "mean"),
    )
    return loss.to(log_prob.dtype)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    call: Call, scores: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of scores, and their logarithmic softmax along axis 1."""
    log_prob = torch.log_softmax(scores, 1)
    return negative_log_likelihood(call, log_prob, labels, weight), log_prob
