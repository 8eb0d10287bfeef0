"""What every target is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from graphopt.runtime.feeds import Array, Batch

SIGNATURE = "serving_default"
"""What TensorFlow and LiteRT look for in a file that has one function."""

Run = Callable[[Batch], Sequence[Array]]
"""Runs what was written: inputs by name to outputs in the order of the model's."""


@dataclass(frozen=True)
class Order:
    """What to write, and where.

    Args:
        model: The model.
        source: Its file.
        folder: An empty folder.
        name: What to call the files.
        example: Inputs that ONNX Runtime runs, for exporters that follow a run.
    """

    model: ir.Model
    source: Path
    folder: Path
    name: str
    example: Batch


@dataclass(frozen=True)
class Written:
    """What reads the written files again and runs them.

    Args:
        run: Runs them.
        notes: What the user should know, one line each.
    """

    run: Run
    notes: tuple[str, ...] = ()
