"""What computes each operator in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

Function = Callable[..., Any]
"""Takes a `Call` and the inputs; returns the output, or a tuple of several."""

ONNX = ""
ML = "ai.onnx.ml"
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Operator:
    """A function that computes an operator.

    Args:
        function: Takes the call and its inputs, of which those left out at the end are missing.
        numbers: Positions of inputs that it takes as `Numbers` or tensor alike; -1: all, though
            floats that are constants stay tensors for it, as they may be weights. The others
            are tensors.
    """

    function: Function
    numbers: frozenset[int] = frozenset()

    def keeps(self, index: int) -> bool:
        """Whether an input may be `Numbers`."""
        return index in self.numbers or -1 in self.numbers


OPERATORS: dict[tuple[str, str], Operator] = {}
"""By domain and name, each in the form of `graphopt.training.prepare.OPSET`."""

ON_NUMBERS: dict[str, Function] = {}
"""Operators of ONNX's own domain for inputs that are all `Numbers`; may return NotImplemented."""


def operator(
    *names: str, domain: str = ONNX, numbers: tuple[int, ...] = ()
) -> Callable[[Function], Function]:
    """Register what computes some operators.

    Args:
        names: The operators.
        domain: Their domain.
        numbers: Positions of inputs that are shapes, axes and the like; -1: all inputs.
    """

    def register(function: Function) -> Function:
        for name in names:
            OPERATORS[domain, name] = Operator(function, frozenset(numbers))
        return function

    return register


def on_numbers(*names: str) -> Callable[[Function], Function]:
    """Register what computes some operators where all inputs are `Numbers`."""

    def register(function: Function) -> Function:
        for name in names:
            ON_NUMBERS[name] = function
        return function

    return register


def find(node: ir.Node) -> Operator | None:
    """Return what computes a node; None: nothing does."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return OPERATORS.get((domain, node.op_type))
