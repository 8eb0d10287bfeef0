"""What static quantization is asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from graphopt.rewrite.selection import Globs
from passes.quantize.targets.rules import Target

Granularity = Literal["tensor", "channel", "block"]

Range = tuple[float, float]
"""The smallest and the largest number that a tensor is expected to hold."""


@dataclass(frozen=True)
class Override:
    """What is given by hand for one tensor.

    Args:
        skip: It stays float.
        dtype: Its type; None: as all others.
        low: The low end of its range.
        high: The high end of its range.
        scale: Its step, instead of a range.
        zero_point: What stands for 0, with `scale`.
    """

    skip: bool = False
    dtype: ir.DataType | None = None
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None

    def bounds(self, measured: Range) -> Range:
        """Return a measured range with the ends that are given by hand."""
        low = measured[0] if self.low is None else self.low
        return low, measured[1] if self.high is None else self.high


@dataclass(frozen=True)
class Settings:
    """What static quantization is asked for.

    Args:
        target: The runtime that is to run the integers.
        activations: The type of activations.
        weights: The type of weights.
        symmetric_activations: Whether activations are stored around the middle of their type.
        symmetric_weights: Whether weights are.
        granularity: What shares a scale in a weight.
        block_size: How many neighbours along the input channels, for "block".
        include: See `selection.selects`.
        exclude: See `selection.selects`.
        op_types: See `selection.selects`.
        overrides: What is given by hand, by the names of tensors.
    """

    target: Target
    activations: ir.DataType = ir.DataType.UINT8
    weights: ir.DataType = ir.DataType.INT8
    symmetric_activations: bool = False
    symmetric_weights: bool = True
    granularity: Granularity = "channel"
    block_size: int = 0
    include: Globs = "*"
    exclude: Globs = ""
    op_types: tuple[str, ...] | None = None
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def override(self, value: ir.Value) -> Override:
        """Return what is given by hand for a tensor."""
        return self.overrides.get(value.name or "", _NOTHING)


_NOTHING = Override()
