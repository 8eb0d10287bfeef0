"""What an untrusted file may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an untrusted file may ask for.

    Args:
        max_bytes: The most bytes one tensor may occupy in memory.
        max_depth: How deep subgraphs and types may nest.
        follow_symlinks: Whether external data may be symlinks that leave the model's folder, or
            files with several hard links, as in the caches of model hubs.
    """

    max_bytes: int = 16 << 30
    max_depth: int = 32
    follow_symlinks: bool = False
