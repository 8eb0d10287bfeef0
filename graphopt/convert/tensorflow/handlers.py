"""Operators of TensorFlow that tf2onnx does not know, in operators of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.tensorflow.index_handlers import (
    Tables,
    bucketize,
    one_hot,
    scatter_nd,
    table_handler,
)
from graphopt.convert.tensorflow.number_handlers import (
    compared,
    equal,
    expm1,
    log1p,
    product_without_nan,
    shifted_long,
    summed,
    truncated_rest,
)
from graphopt.convert.tensorflow.resizing import resize_bicubic
from graphopt.convert.tensorflow.rewriting import Handler, Rewriting

_COMPARISONS = ("Greater", "GreaterEqual", "Less", "LessEqual")
_INT8, _INT64, _UINT64 = map(int, (ir.DataType.INT8, ir.DataType.INT64, ir.DataType.UINT64))
_EQUAL_BROADCASTS = 7
_SUM_BROADCASTS = 8
_INTEGERS_COMPARE = 9
_WHERE_IS_THERE = 9
_MOD_IS_THERE = 10
_TOP_K_TAKES_A_TENSOR = 10
_BIT_SHIFT_IS_THERE = 11
_EQUAL_TAKES_FLOATS = 11
_RESIZE_IS_THERE = 11
_AXES_ARE_INPUTS = 13
_SCATTERED_ARE_ADDED = 16


def _erfc(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Write erfc(x) as 1 - erf(x), as the exact GELU of Keras needs it."""
    del arguments
    from tf2onnx import utils

    output = node.output[0]
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    source = node.input[0]
    graph.remove_node(name)
    error = graph.make_node("Erf", [source], dtypes=[dtype], shapes=[shape])
    one = graph.make_const(utils.make_name("one"), np.array(1, utils.map_onnx_to_numpy_type(dtype)))
    graph.make_node(
        "Sub", [one.output[0], error.output[0]], name=name, outputs=[output],
        dtypes=[dtype], shapes=[shape],
    )  # fmt: skip


def _where(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Choose with Where: tf2onnx's product with 0 and 1 makes NaN of what is infinite there."""
    del name, arguments
    condition, chosen, other = node.input
    is_old = node.type == "Select"
    if is_old:
        condition = _as_rows(graph, condition, chosen, other)
    rewriting = Rewriting(graph, node)
    rewriting.choose(condition, chosen, other)


def _top_k(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Choose in the type of the input: tf2onnx goes by float32, which takes large numbers for one.

    Doubles would lose half of their digits, and integers above 2**24 would be taken for equal.
    """
    del arguments
    from tf2onnx import utils

    source, count = node.input
    values, indices = node.output
    shapes = [graph.get_shape(values), graph.get_shape(indices)]
    dtypes = [graph.get_dtype(values), graph.get_dtype(indices)]
    graph.remove_node(name)
    wide = graph.make_node("Cast", [count], attr={"to": _INT64}).output[0]
    one = graph.make_const(utils.make_name("one"), np.array([1], np.int64))
    number = graph.make_node("Reshape", [wide, one.output[0]]).output[0]
    found = utils.make_name("indices")
    graph.make_node(
        "TopK", [source, number], name=name, outputs=[values, found],
        dtypes=[dtypes[0], _INT64], shapes=shapes,
    )  # fmt: skip
    graph.make_node(
        "Cast", [found], attr={"to": dtypes[1]}, outputs=[indices],
        dtypes=dtypes[1:], shapes=shapes[1:],
    )  # fmt: skip


def _floored(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Divide integers as TensorFlow does, towards minus infinity: tf2onnx rounds towards zero.

    Where the quotient that is rounded towards zero leaves a rest, and the signs differ, it is 1 too
    large, and the rest lacks one divisor.
    """
    del arguments
    from tf2onnx import utils
    from tf2onnx.onnx_opset import math

    is_quotient, (x, y), output = node.type == "FloorDiv", node.input, node.output[0]
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    if not ir.DataType(dtype).is_integer():
        if is_quotient:
            math.FloorDiv.version_6(graph, node)
        else:
            math.FloorMod.version_7(graph, node)
        return
    graph.remove_node(name)

    def made(kind: str, *inputs: str) -> str:
        found: str = graph.make_node(kind, list(inputs)).output[0]
        return found

    def number(size: int) -> str:
        array = np.array(size, utils.map_onnx_to_numpy_type(dtype))
        found: str = graph.make_const(utils.make_name("number"), array).output[0]
        return found

    quotient, zero = made("Div", x, y), number(0)
    rest = made("Sub", x, made("Mul", quotient, y))
    signs_differ = made("Xor", made("Less", x, zero), made("Less", y, zero))
    too_large = made("And", made("Not", made("Equal", rest, zero)), signs_differ)
    if is_quotient:
        choices = [made("Sub", quotient, number(1)), quotient]
    else:
        choices = [made("Add", rest, y), rest]
    graph.make_node(
        "Where", [too_large, *choices], name=name, outputs=[output],
        dtypes=[dtype], shapes=[shape],
    )  # fmt: skip


def _shifted(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Shift 64 bits, which tf2onnx does not, and keep the sign of 8 bits to the right.

    ONNX shifts unsigned integers alone, and tf2onnx shifts zeros into 8 bits.
    """
    del arguments
    from tf2onnx.onnx_opset import math

    output, to_the_right = node.output[0], node.type == "RightShift"
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    if dtype == _INT64:
        shifted_long(graph, node, to_the_right=to_the_right)
        return
    if dtype != _INT8 or not to_the_right:
        math.BitShift.version_11(graph, node)
        return
    # The sign fills what is above the 8 bits, and comes down from there.
    wide = [graph.make_node("Cast", [item], attr={"to": _UINT64}).output[0] for item in node.input]
    graph.remove_node(name)
    shifted = graph.make_node("BitShift", wide, attr={"direction": "RIGHT"}).output[0]
    graph.make_node(
        "Cast", [shifted], attr={"to": _INT8}, name=name, outputs=[output],
        dtypes=[dtype], shapes=[shape],
    )  # fmt: skip


def _as_rows(graph: Any, condition: str, chosen: str, other: str) -> str:
    """Let a vector choose whole rows, as the operator Select of TensorFlow 1 does."""
    from tf2onnx import utils

    shape = graph.get_shape(chosen) or graph.get_shape(other)
    sizes = graph.get_shape(condition)
    if sizes is None or len(sizes) != 1 or shape is None or len(shape) < 2:
        return condition
    target = graph.make_const(
        utils.make_name("rows"), np.array([-1] + [1] * (len(shape) - 1), np.int64)
    )
    reshaped: str = graph.make_node("Reshape", [condition, target.output[0]]).output[0]
    return reshaped


def handlers(opset: int, tables: Tables | None = None) -> dict[str, tuple[Handler, list[str]]]:
    """Return what `process_tf_graph` takes as custom_op_handlers.

    Args:
        opset: What it writes.
        tables: What lookup tables hold.
    """
    since: dict[str, tuple[int, Handler]] = {
        "AddN": (_SUM_BROADCASTS, summed),
        "Erfc": (1, _erfc),
        "Expm1": (1, expm1),
        "LookupTableFindV2": (1, table_handler(tables or {})),
        "Select": (1, _where),
        "SelectV2": (1, _where),
        "FloorDiv": (_WHERE_IS_THERE, _floored),
        "FloorMod": (_WHERE_IS_THERE, _floored),
        "Equal": (_EQUAL_BROADCASTS, equal),
        "NotEqual": (_EQUAL_BROADCASTS, equal),
        "OneHot": (_WHERE_IS_THERE, one_hot),
        **dict.fromkeys(_COMPARISONS, (_INTEGERS_COMPARE, compared)),
        "TopKV2": (_TOP_K_TAKES_A_TENSOR, _top_k),
        "TruncateMod": (_MOD_IS_THERE, truncated_rest),
        "Log1p": (_EQUAL_TAKES_FLOATS, log1p),
        "MulNoNan": (_EQUAL_TAKES_FLOATS, product_without_nan),
        "ResizeBicubic": (_RESIZE_IS_THERE, resize_bicubic),
        "LeftShift": (_BIT_SHIFT_IS_THERE, _shifted),
        "RightShift": (_BIT_SHIFT_IS_THERE, _shifted),
        "Bucketize": (_AXES_ARE_INPUTS, bucketize),
        "ScatterNd": (_SCATTERED_ARE_ADDED, scatter_nd),
    }
    return {name: (handler, []) for name, (first, handler) in since.items() if opset >= first}
