"""A model whose tensors the tests of collecting watch, and its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, C, S] x, int64[N] ids) => (float[N, C, S] y, float[N, 4] row)
<float[10, 4] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                       0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    doubled = Add (x, x)
    root = Sqrt (doubled)
    y = Relu (root)
    row = Gather (table, ids)
    cast = Cast <to = 7> (row)
    flags = Greater (x, doubled)
}
"""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def net_feeds(samples: int = 10, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    x = np.abs(normal(samples, 2, 5, seed=seed))
    return {"x": x, "ids": random.integers(0, 10, samples)}
