"""Weights that are stored as integers and made real by Cast, Sub and Mul."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.model.constants import held_tensor, is_op

_NARROW_BITS = 16
"""Integers of more bits are not stored for being small."""


def scaled_integers(node: ir.Node) -> tuple[ir.Value, ir.Value | None] | None:
    """Return what a Mul scales: stored integers, and their zero point where one is subtracted.

    None for other nodes, and where nothing is stored as integers of at most 16 bits.
    """
    if not is_op(node, "Mul"):
        return None
    for value in node.inputs:
        shift = None
        producer = None if value is None else value.producer()
        if producer is not None and is_op(producer, "Sub"):
            shift = _before_cast(producer.inputs[1])
            producer = None if producer.inputs[0] is None else producer.inputs[0].producer()
        if producer is None or not is_op(producer, "Cast"):
            continue
        stored = producer.inputs[0]
        if stored is not None and _is_narrow(stored):
            return stored, shift
    return None


def _before_cast(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer is not None and is_op(producer, "Cast") else value


def _is_narrow(value: ir.Value) -> bool:
    producer = value.producer()
    tensor = value.const_value if producer is None else held_tensor(producer)
    return (
        tensor is not None and tensor.dtype.is_integer() and tensor.dtype.bitwidth <= _NARROW_BITS
    )
