"""Samples whose label is a matter of rounding: two classes are equally probable."""

from __future__ import annotations

import numpy as np

from graphopt.runtime.feeds import Array

TIE = 1e-5
"""Relative to the largest score of a sample: below it, rounding decides which class is first."""


def decided(scores: Array) -> Array:
    """Tell which samples have a first class whatever the rounding; scores are (batch, classes)."""
    scores = scores.astype(np.float64)
    first, second = np.sort(scores, axis=1)[:, :-3:-1].T
    found: Array = first - second > TIE * np.abs(scores).max(axis=1)
    return found


CLASSES = "two classes are equally probable there, and rounding decides on the label"


def tie_note(kept: Array, why: str = CLASSES) -> str:
    """Say how many samples are left out."""
    return f"{np.count_nonzero(kept == 0)} of {len(kept)} samples were not compared: {why}"
