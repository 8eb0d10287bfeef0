"""Functions of integers and doubles that the conversion tests name."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.function(
    input_signature=[
        tf.TensorSpec([None, 4], tf.int32, "x"),
        tf.TensorSpec([None, 4], tf.int32, "y"),
    ]
)
def divided(x: Any, y: Any) -> dict[str, Any]:
    return {"floor": x // y, "rest": x % y, "truncated": tf.truncatediv(x, y)}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
def divided_floats(x: Any) -> dict[str, Any]:
    return {"floor": x // 0.75, "rest": x % 0.75}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float64, "x")])
def largest_doubles(x: Any) -> dict[str, Any]:
    values, indices = tf.nn.top_k(x, 2)
    return {"values": values, "at": indices}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int64, "x")])
def largest_integers(x: Any) -> dict[str, Any]:
    values, indices = tf.nn.top_k(x, 2)
    return {"values": values, "at": indices}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def shifted(x: Any) -> dict[str, Any]:
    narrow = tf.cast(x, tf.int8)
    short = tf.bitwise.right_shift(narrow, tf.constant(2, tf.int8))
    return {"int8": tf.cast(short, tf.int32), "int32": tf.bitwise.right_shift(x, 2)}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def encoded(x: Any) -> dict[str, Any]:
    return {
        "last": tf.one_hot(x, 5),
        "first": tf.one_hot(x, 5, axis=0),
        "between": tf.one_hot(x, 5, axis=1),
        "values": tf.one_hot(x, 5, on_value=2.0, off_value=-1.0),
        "int64": tf.one_hot(tf.cast(x, tf.int64), 5, dtype=tf.int64),
        "bool": tf.one_hot(x, 5, on_value=True, off_value=False),
        "computed": tf.one_hot(x, tf.shape(x)[0]),
        "of_a_number": tf.one_hot(x[0, 0], 5),
    }


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def one_hot_of_tf2onnx(x: Any) -> dict[str, Any]:
    return {"classes": tf.one_hot(x, 5)}


@tf.function(
    input_signature=[
        tf.TensorSpec([None, 4], tf.int64, "x"),
        tf.TensorSpec([None, 4], tf.int64, "y"),
    ]
)
def compared(x: Any, y: Any) -> dict[str, Any]:
    narrow = tf.cast(x % 2**31, tf.int32)
    return {
        "less": x < y,
        "greater": x > y,
        "at_least": x >= y,
        "at_most": x <= y,
        "int32": narrow < narrow + 1,
    }


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int64, "x")])
def shifted_long(x: Any) -> dict[str, Any]:
    two = tf.constant(2, tf.int64)
    return {"right": tf.bitwise.right_shift(x, two), "left": tf.bitwise.left_shift(x, two)}


@tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "x")])
def added_up(x: Any) -> dict[str, Any]:
    places = tf.abs(x) % 3
    return {
        "sums": tf.scatter_nd(places[:, None], tf.cast(x, tf.float32), [3]),
        "counts": tf.math.confusion_matrix(places, places[::-1], 3),
    }


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def rests(x: Any) -> dict[str, Any]:
    real = tf.cast(x, tf.float32)
    return {
        "integers": tf.raw_ops.TruncateMod(x=x, y=tf.constant(3)),
        "floats": tf.raw_ops.TruncateMod(x=real, y=tf.constant(0.75)),
        "without_nan": tf.math.multiply_no_nan(1 / tf.zeros_like(real), tf.nn.relu(real)),
    }


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
def near_zero(x: Any) -> dict[str, Any]:
    return {"expm1": tf.math.expm1(x), "log1p": tf.math.log1p(x)}


@tf.function(
    input_signature=[
        tf.TensorSpec([None, 4], tf.float32, "x"),
        tf.TensorSpec([None, 4], tf.int32, "y"),
    ]
)
def bucketized(x: Any, y: Any) -> dict[str, Any]:
    limits = [-1.0, 0.0, 2.0]
    return {
        "floats": tf.raw_ops.Bucketize(input=x, boundaries=limits),
        "doubles": tf.raw_ops.Bucketize(input=tf.cast(x, tf.float64), boundaries=limits),
        "integers": tf.raw_ops.Bucketize(input=y, boundaries=limits),
    }


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def chosen(x: Any) -> dict[str, Any]:
    types = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.float16)
    numbers = {kind.name: tf.cast(x, kind) for kind in types}
    found = {name: tf.where(x > 3, value, value[::-1]) for name, value in numbers.items()}
    return found | {"bool": tf.where(x > 3, x > 5, x < -2)}


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32, "x")])
def summed(x: Any) -> dict[str, Any]:
    real = tf.cast(x, tf.float32)
    return {
        "integers": tf.add_n([x, x // 2, x // 3]),
        "floats": tf.add_n([real, 2 * real, 4 * real]),
    }
