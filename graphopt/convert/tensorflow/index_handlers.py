"""Operators of TensorFlow that make places of numbers, in operators of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.tensorflow.rewriting import Handler, Rewriting
from graphopt.runtime.feeds import Array

Tables = Mapping[Any, tuple[Array, Array]]
"""Keys and values of lookup tables, by what tf2onnx calls them."""

_RANGE_IS_THERE = 11


def one_hot(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Compare each index with all classes: one that is no class gives a row of off values.

    ONNX's OneHot counts negative indices from the end, where TensorFlow knows no such class.
    """
    del name, arguments
    axis = node.get_attr_value("axis", -1)
    rewriting = Rewriting(graph, node)
    indices, depth, on, off = rewriting.inputs
    rank = rewriting.rank(indices)
    if axis < 0 and rank is not None:
        axis += rank + 1
    if axis >= 0 and rank is None:
        raise ValueError("one_hot along an axis of a tensor whose rank is not known")
    number = rewriting.known(depth)
    if number is not None:
        classes = rewriting.constant(np.arange(int(number), dtype=np.int64))
    elif graph.opset < _RANGE_IS_THERE:
        raise ValueError(f"one_hot of a computed depth needs opset {_RANGE_IS_THERE}")
    else:
        zero, one = (rewriting.constant(np.array(item, np.int64)) for item in (0, 1))
        classes = rewriting.made("Range", zero, rewriting.cast(depth, ir.DataType.INT64), one)
    behind = 0 if axis < 0 or rank is None else rank - axis
    if behind:
        sizes = rewriting.constant(np.array([-1] + [1] * behind, np.int64))
        classes = rewriting.made("Reshape", classes, sizes)
    places = rewriting.unsqueezed(rewriting.cast(indices, ir.DataType.INT64), axis)
    is_class = rewriting.made("Equal", places, classes)
    rewriting.choose(is_class, on, off)


def scatter_nd(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Add up what goes to one place: tf2onnx keeps the last of them."""
    del name, arguments
    rewriting = Rewriting(graph, node)
    indices, updates, shape = (
        rewriting.cast(value, ir.DataType.INT64) if position != 1 else value
        for position, value in enumerate(rewriting.inputs)
    )
    zeros = rewriting.made("Expand", rewriting.number(0), shape)
    rewriting.end("ScatterND", [zeros, indices, updates], reduction="add")


def bucketize(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Count the boundaries that are not above a number; none is above NaN."""
    del name, arguments
    boundaries = np.array(node.get_attr_value("boundaries"), np.float32)
    dtype = ir.DataType(graph.get_dtype(node.input[0]))
    # As TensorFlow's kernel compares them with its float32 boundaries.
    compared = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    rewriting = Rewriting(graph, node)
    numbers = rewriting.unsqueezed(rewriting.cast(rewriting.inputs[0], compared), -1)
    limits = rewriting.constant(boundaries.astype(compared.numpy()))
    reached = rewriting.made("Not", rewriting.made("Less", numbers, limits))
    axes = rewriting.constant(np.array([-1], np.int64))
    counted = rewriting.cast(reached, ir.DataType(rewriting.dtype))
    rewriting.end("ReduceSum", [counted, axes], keepdims=0)


def table_handler(tables: Tables) -> Handler:
    """Return what looks integers up in tables of integers, which tf2onnx does with text alone."""

    def look_up(graph: Any, node: Any, name: str, arguments: object) -> None:
        del name, arguments
        from tf2onnx.custom_opsets.onnx_ml import LookupTableFind

        integer = ir.DataType.INT64
        if {graph.get_dtype(node.input[1]), graph.get_dtype(node.output[0])} != {integer}:
            LookupTableFind.version_8(graph, node, initialized_tables=tables)
            return
        table = node.inputs[0]
        while table.type == "Identity":
            table = table.inputs[0]
        shared_name = table.get_attr_value("shared_name")
        if shared_name not in tables or not node.inputs[2].is_const():
            raise ValueError("the table's content is not known")
        keys, values = tables[shared_name]
        default = int(node.inputs[2].get_tensor_value())
        rewriting = Rewriting(graph, node)
        rewriting.end(
            "LabelEncoder", [rewriting.inputs[1]], domain="ai.onnx.ml",
            keys_int64s=keys.tolist(), values_int64s=values.tolist(), default_int64=default,
        )  # fmt: skip
        if not graph.find_output_consumers(table.output[0]):
            graph.remove_node(table.name)

    return look_up
