"""How far two models' outputs are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.runtime.feeds import Feeds


@dataclass(frozen=True)
class OutputError:
    """The error of one output over all samples, streamed.

    Args:
        name: The output.
        max_abs: Largest absolute difference.
        max_rel: Largest difference relative to the reference's magnitude.
        rms: Root of the mean squared difference.
        cosine: 1 minus the cosine similarity of the flattened outputs.
        sqnr_db: Signal to quantization noise ratio, in dB; inf when equal.
        argmax_agreement: Share of rows with the same argmax along the last axis; None if no rows.
        finite: Whether the candidate has no NaN and no infinity that the reference lacks.
        equal: Whether they are equal up to float reassociation (integers, strings: identical).
    """

    name: str
    max_abs: float
    max_rel: float
    rms: float
    cosine: float
    sqnr_db: float
    argmax_agreement: float | None
    finite: bool
    equal: bool


def compare(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Feeds,
    *,
    providers: Sequence[str] = ("cpu",),
    batch: int = 32,
) -> tuple[OutputError, ...]:
    """Run both models on the same feeds and return one error per output of the reference.

    Raises:
        CheckFailed: Either model does not run, or an output is missing, or has another dtype or
            rank.
    """
    raise NotImplementedError
