"""Input arrays by name, streamed in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.generic]
Batch = dict[str, Array]
"""One array per model input, samples along axis 0."""


@dataclass(frozen=True)
class Feeds:
    """Samples for a model, and optionally their labels. Can be iterated any number of times.

    Args:
        arrays: One array per model input, samples along axis 0; memory-mapped where possible.
        labels: One entry per sample.
        source: What a message calls this data.
    """

    arrays: Mapping[str, Array]
    labels: Array | None = None
    source: str = "data"

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(next(iter(self.arrays.values())))

    def batches(self, size: int = 32) -> Iterator[Batch]:
        """Yield the samples in order, `size` at a time."""
        for start in range(0, self.count, size):
            yield {name: array[start : start + size] for name, array in self.arrays.items()}


def open_feeds(spec: str) -> Feeds:
    """Open `FILE.npz`, a folder of such files, or `module:function` yielding batches.

    Raises:
        GraphoptError: It cannot be read, is empty, or holds an object array.
    """
    with np.load(spec, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Feeds(arrays, labels=arrays.pop("labels", None), source=spec)


def synthetic_feeds(model: ir.Model, *, seed: int = 0, samples: int = 4) -> Feeds:
    """Make seeded inputs that respect names, dtypes, dynamic shapes and integer ranges."""
    generator = np.random.default_rng(seed)
    arrays: Batch = {}
    for value in model.graph.inputs:
        assert value.name is not None and value.shape is not None and value.dtype is not None
        shape = [d if isinstance(d, int) else samples for d in value.shape]
        arrays[value.name] = generator.standard_normal(shape).astype(value.dtype.numpy())
    return Feeds(arrays, source="synthetic inputs")
