"""FunctionTransformer with a function of numpy that ONNX has, too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes

_ALIKE = {
    "absolute": "Abs",
    "arccos": "Acos",
    "arcsin": "Asin",
    "arctan": "Atan",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "rint": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
"""Operators by the name of the ufunc."""


_POSITIVE = ("log", "log2", "log10", "log1p", "reciprocal", "sqrt")
_WITHIN_ONE = ("arccos", "arcsin")


def domain_of(transformer: Any) -> tuple[float, float] | None:
    """Return a range on which the function of a FunctionTransformer has finite values.

    None: it has them everywhere, or is not known.
    """
    name = getattr(getattr(transformer, "func", None), "__name__", "")
    if name in _POSITIVE:
        return 0.1, 4.0
    return (-1.0, 1.0) if name in _WITHIN_ONE else None


class _Writer:
    """Writes functions that are no operator of ONNX, in the type of their argument."""

    def __init__(self, nodes: ContainerNodes, dtype: type[np.floating[Any]]) -> None:
        self._nodes, self._dtype = nodes, dtype

    def _number(self, value: float) -> str:
        return self._nodes.constant(np.array([value], self._dtype))

    def square(self, x: str) -> str:
        """Write x * x."""
        return self._nodes.node("Mul", [x, x])

    def log2(self, x: str) -> str:
        """Write log(x) / log(2)."""
        return self._log(x, 2)

    def log10(self, x: str) -> str:
        """Write log(x) / log(10)."""
        return self._log(x, 10)

    def _log(self, x: str, base: float) -> str:
        return self._nodes.node(
            "Mul", [self._nodes.node("Log", [x]), self._number(1 / math.log(base))]
        )

    def exp2(self, x: str) -> str:
        """Write 2 ** x."""
        return self._nodes.node("Pow", [self._number(2), x])

    def log1p(self, x: str) -> str:
        """Write log(1 + x), exact where x is small, too.

        That is log(u) * x / (u - 1) with u = 1 + x rounded, and x where u is 1 (Goldberg, What
        Every Computer Scientist Should Know About Floating-Point Arithmetic, theorem 4). Where x is
        infinite, so is the logarithm.
        """
        nodes, one = self._nodes, self._number(1)
        u = nodes.node("Add", [x, one])
        log = nodes.node("Log", [u])
        exact = nodes.node("Div", [nodes.node("Mul", [log, x]), nodes.node("Sub", [u, one])])
        exact = nodes.node("Where", [nodes.node("Equal", [u, one]), x, exact])
        return nodes.node("Where", [nodes.node("IsInf", [x]), log, exact])

    def expm1(self, x: str) -> str:
        """Write exp(x) - 1, exact where x is small, too: tanh(x / 2) * (exp(x) + 1)."""
        nodes = self._nodes
        half = nodes.node("Tanh", [nodes.node("Mul", [x, self._number(0.5)])])
        more = nodes.node("Add", [nodes.node("Exp", [x]), self._number(1)])
        return nodes.node("Mul", [half, more])


_COMPOSED: dict[str, Callable[[_Writer, str], str]] = {
    name: getattr(_Writer, name) for name in ("square", "log2", "log10", "exp2", "log1p", "expm1")
}


def is_known(transformer: Any) -> bool:
    """Whether the function of a FunctionTransformer can be written."""
    function = transformer.func
    return function is None or (is_function(function) and not transformer.kw_args)


def is_function(function: Any) -> bool:
    """Whether a function is one of numpy's that can be written."""
    return (
        isinstance(function, np.ufunc)
        and function.__name__ in _ALIKE.keys() | _COMPOSED.keys()
        and getattr(np, function.__name__, None) is function
    )


def write_function(
    nodes: ContainerNodes, function: Any, x: str, dtype: type[np.floating[Any]]
) -> str:
    """Write a function of numpy over floats of a type."""
    name = function.__name__
    if name in _ALIKE:
        return nodes.node(_ALIKE[name], [x])
    return _COMPOSED[name](_Writer(nodes, dtype), x)


@functools.cache
def register_functions() -> None:
    """Let skl2onnx write a FunctionTransformer with such a function."""
    from skl2onnx import update_registered_converter
    from sklearn.preprocessing import FunctionTransformer

    update_registered_converter(
        FunctionTransformer, "GraphoptFunctionTransformer", _output_shape, _convert
    )


def _output_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    first = operator.inputs[0]
    sizes = [value.type.shape[1] for value in operator.inputs]
    width = None if None in sizes else sum(sizes)
    if operator.raw_operator.func is None:
        kind = type(first.type)
    else:
        doubles = any(isinstance(value.type, DoubleTensorType) for value in operator.inputs)
        kind = DoubleTensorType if doubles else FloatTensorType
    operator.outputs[0].type = kind([first.get_first_dimension(), width])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    nodes, function = ContainerNodes(scope, container), operator.raw_operator.func
    output = operator.outputs[0]
    names = [value.full_name for value in operator.inputs]
    doubles = isinstance(output.type, DoubleTensorType)
    if function is not None:
        names = [nodes.node("Cast", [name], to=11 if doubles else 1) for name in names]
    x = names[0] if len(names) == 1 else nodes.node("Concat", names, axis=1)
    if function is not None:
        x = write_function(nodes, function, x, np.float64 if doubles else np.float32)
    nodes.into(output.full_name, "Identity", [x])
