"""How far the outputs of a quantized model may be apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.convert.movers import maker
from graphopt.convert.parity import Reference
from graphopt.rewrite.constants import array
from graphopt.runtime.feeds import Array, Batch
from graphopt.runtime.session import Session

_DRAWS = 4
_REASSOCIATION = 128 * 2.0**-23
"""Of float32, as in `graphopt.runtime.difference`."""


def step(output: ir.Value) -> float | None:
    """Return the step of an output that is quantized, in its own unit; None: it is not.

    A tensor of integers steps by 1, one that was dequantized by its scale.
    """
    node = maker(output)
    if node is None:
        return None
    if node.op_type == "QuantizeLinear":
        return 1.0
    if node.op_type == "DequantizeLinear":
        scale = array(node.inputs[1])
        # The difference of two multiples of a scale is rounded, too.
        return None if scale is None else float(np.max(scale)) * (1 + 1e-3)
    return None


def roundings(model: ir.Model, batch: Batch, reference: Reference) -> list[float]:
    """Measure how far outputs may be apart where activations are rounded to 8 bits as they run.

    Both compute the same up to the order of sums, but an activation that lies between two steps is
    rounded up by one and down by the other. How much of an output that moves is asked of both:

    - of TFLite, with inputs changed by as much as other orders of sums change an activation, in
      several draws; twice its movement counts, as in `Comparison`,
    - of ONNX Runtime, without its optimizations: they make MatMulNBits of products with 8-bit
      weights, which rounds activations once more.

    Args:
        model: The model.
        batch: Its inputs.
        reference: TFLite.

    Returns:
        By output, in its unit, the sum of both and of what reassociation explains.
    """
    session = Session(model, title="the converted model")
    plain = session.unoptimized().run(batch)
    expected = reference(batch)
    orders = [_REASSOCIATION * _largest(output) for output in expected]
    moved = [0.0] * len(expected)
    for seed in range(_DRAWS):
        found = reference(_changed(batch, seed))
        moved = [
            max(before, _apart(one, other))
            for before, one, other in zip(moved, expected, found, strict=True)
        ]
    optimized = [_apart(one, plain[name]) for name, one in session.run(batch).items()]
    return [
        sum(parts) for parts in zip(orders, (2 * size for size in moved), optimized, strict=True)
    ]


def _changed(batch: Batch, seed: int) -> Batch:
    """Change float inputs by the share of them that other orders of sums explain."""
    random = np.random.default_rng(seed)
    return {
        name: array * (1 + _REASSOCIATION * random.choice((-1, 1), array.shape)).astype(array.dtype)
        if array.dtype == np.float32
        else array
        for name, array in batch.items()
    }


def _largest(values: Array) -> float:
    return float(np.abs(values.astype(np.float64)).max(initial=0))


def _apart(one: Array, other: Array) -> float:
    return _largest(one.astype(np.float64) - other.astype(np.float64))
