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
