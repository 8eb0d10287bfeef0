"""Operators that pass their input on."""

from __future__ import annotations

from graphopt.training.call import Call
from graphopt.training.numbers import Value
from graphopt.training.operators.registry import operator


@operator("Identity")
def identity(_: Call, value: Value) -> Value:
    """Return the input: a tensor, a sequence or an optional one."""
    return value
