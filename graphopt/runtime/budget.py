"""What a candidate may lose, and whether an output keeps to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.runtime.compare import OutputError
from graphopt.runtime.difference import Tolerance

_ALL_OTHERS = "*"


@dataclass(frozen=True)
class Budget:
    """What a candidate may lose. Empty: nothing but the rounding of reassociated sums.

    Args:
        max_drop: Of the metric, in its own unit.
        min_sqnr: Of each output, in dB.
        tolerances: By output, `*` for all others. Where there is no other budget, outputs without
            a tolerance must be equal up to reassociation.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)


def fault(error: OutputError, *, exact: bool, min_sqnr: float | None) -> str | None:
    """What is wrong with an output, in one clause; None: nothing is.

    Args:
        error: How far it is from the reference's.
        exact: Whether it must be equal up to reassociated sums.
        min_sqnr: The least signal to quantization noise ratio, in dB; None: any.
    """
    if not error.finite:
        return f"output {error.name!r} has NaN or infinity where the reference has none"
    if exact and not error.equal:
        return (
            f"output {error.name!r} differs by up to {error.max_abs:.3g} (SQNR"
            f" {error.sqnr_db:.1f} dB), reassociated sums explain {error.bound:.3g}"
        )
    if min_sqnr is not None and not error.sqnr_db >= min_sqnr:
        return f"output {error.name!r} has an SQNR of {error.sqnr_db:.1f} dB, under {min_sqnr:g} dB"
    return None


def judge_output(error: OutputError, budget: Budget) -> str | None:
    """What is wrong with an output, in one clause; None: nothing is."""
    tolerance = budget.tolerances.get(error.name, budget.tolerances.get(_ALL_OTHERS))
    strict = budget.max_drop is None and budget.min_sqnr is None and tolerance is None
    if error.finite and tolerance is not None and error.outside:
        return (
            f"output {error.name!r}: {error.outside:,} of {error.elements:,} elements are outside"
            f" of atol {tolerance.atol:g}, rtol {tolerance.rtol:g} (max abs {error.max_abs:.3g},"
            f" max rel {error.max_rel:.3g})"
        )
    found = fault(error, exact=strict, min_sqnr=budget.min_sqnr)
    if found and strict and error.finite:
        return f"{found}; where a loss is meant, allow it: --max-drop, --min-sqnr, --rtol or --atol"
    return found
