"""Operators that pass their input on."""

from __future__ import annotations

from typing import Any

from graphopt.training.call import Call
from graphopt.training.numbers import Value
from graphopt.training.operators.registry import operator


@operator("Identity", numbers=(-1,))
def identity(_: Call, value: Value) -> Any:
    """Return the input."""
    return value
