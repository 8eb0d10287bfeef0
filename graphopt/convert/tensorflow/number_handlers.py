"""Operators of TensorFlow that compute number by number, in operators of ONNX."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt.convert.tensorflow.rewriting import Rewriting
from graphopt.errors import GraphoptError

_OR_EQUAL_IS_THERE = 12
_EQUAL_TAKES_NUMBERS = 11
_WHOLE = {ir.DataType.INT32, ir.DataType.INT64}


def expm1(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Write exp(x) - 1 as tanh(x / 2) (exp(x) + 1), which keeps the digits of small numbers."""
    del name, arguments
    rewriting = Rewriting(graph, node)
    (x,) = rewriting.inputs
    half = rewriting.made("Tanh", rewriting.made("Mul", x, rewriting.number(0.5)))
    raised = rewriting.made("Add", rewriting.made("Exp", x), rewriting.number(1))
    rewriting.end("Mul", [half, raised])


def log1p(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Write log(1 + x) with the digits that the sum loses.

    Source: W. Kahan, in D. Goldberg, What Every Computer Scientist Should Know About Floating-Point
    Arithmetic, theorem 4: x log(u) / (u - 1) with u = 1 + x, and x where u is 1.
    """
    del name, arguments
    rewriting = Rewriting(graph, node)
    (x,) = rewriting.inputs
    one = rewriting.number(1)
    sum_ = rewriting.made("Add", x, one)
    lost = rewriting.made("Equal", sum_, one)
    # Infinity is its own logarithm, and not infinity times infinity by infinity.
    endless = rewriting.made("Equal", sum_, x)
    plain = rewriting.made("Log", sum_)
    share = rewriting.made("Div", x, rewriting.made("Sub", sum_, one))
    scaled = rewriting.made("Where", endless, plain, rewriting.made("Mul", plain, share))
    rewriting.end("Where", [lost, x, scaled])


def compared(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Compare integers as such: tf2onnx takes them for float32, which has 24 bits."""
    del name, arguments
    from tf2onnx.onnx_opset import logical

    operator = node.type
    opposite = {"GreaterEqual": "Less", "LessEqual": "Greater"}.get(operator)
    if opposite is not None and graph.opset >= _OR_EQUAL_IS_THERE:
        logical.GreaterLessEqual.version_12(graph, node)
    elif graph.get_dtype(node.input[0]) not in _WHOLE:
        kind = logical.GreaterLess if opposite is None else logical.GreaterLessEqual
        kind.version_7(graph, node)
    else:
        rewriting = Rewriting(graph, node)
        if opposite is None:
            rewriting.end(operator, rewriting.inputs)
        else:
            rewriting.end("Not", [rewriting.made(opposite, *rewriting.inputs)])


def equal(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Compare numbers alone: tf2onnx reads texts as numbers, and ONNX compares them since opset 19.

    Raises:
        GraphoptError: They are texts.
    """
    del arguments
    from tf2onnx.onnx_opset import logical

    if graph.get_dtype(node.input[0]) == ir.DataType.STRING:
        raise GraphoptError(
            f"{node.type} (at {name}) compares texts, which ONNX does since opset 19 only",
            fix="look them up in a table (tf.lookup.StaticHashTable), and compare the numbers",
        )
    if graph.opset >= _EQUAL_TAKES_NUMBERS:
        logical.Equal.version_11(graph, node)
    else:
        logical.Equal.version_7(graph, node)


def summed(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Add integers two at a time: ONNX's Sum takes floats alone."""
    del name, arguments
    rewriting = Rewriting(graph, node)
    if not ir.DataType(rewriting.dtype).is_integer():
        rewriting.end("Sum", rewriting.inputs)
        return
    *before, last = rewriting.inputs
    if not before:
        rewriting.end("Identity", [last])
        return
    total = before[0]
    for term in before[1:]:
        total = rewriting.made("Add", total, term)
    rewriting.end("Add", [total, last])


def truncated_rest(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Leave the rest of a division towards zero, as fmod of C does."""
    del name, arguments
    rewriting = Rewriting(graph, node)
    rewriting.end("Mod", rewriting.inputs, fmod=1)


def product_without_nan(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Let 0 on the right make 0 of anything on the left."""
    del name, arguments
    rewriting = Rewriting(graph, node)
    x, y = rewriting.inputs
    zero = rewriting.number(0)
    product = rewriting.made("Mul", x, y)
    rewriting.end("Where", [rewriting.made("Equal", y, zero), zero, product])


def shifted_long(graph: Any, node: Any, *, to_the_right: bool) -> None:
    """Shift 64 bits, as unsigned ones; to the right, the sign is kept.

    What is below zero is shifted as -1 - x, which has the opposite bits.
    """
    rewriting = Rewriting(graph, node)
    x, bits = rewriting.inputs
    bits = rewriting.cast(bits, ir.DataType.UINT64)
    if not to_the_right:
        wide = rewriting.cast(x, ir.DataType.UINT64)
        moved = rewriting.made("BitShift", wide, bits, direction="LEFT")
        rewriting.end("Cast", [moved], to=rewriting.dtype)
        return
    is_below = rewriting.made("Less", x, rewriting.number(0))
    minus_one = rewriting.number(-1)
    positive = rewriting.made("Where", is_below, rewriting.made("Sub", minus_one, x), x)
    moved = rewriting.made(
        "BitShift", rewriting.cast(positive, ir.DataType.UINT64), bits, direction="RIGHT"
    )
    shifted = rewriting.made("Cast", moved, to=rewriting.dtype)
    rewriting.end("Where", [is_below, rewriting.made("Sub", minus_one, shifted), shifted])
