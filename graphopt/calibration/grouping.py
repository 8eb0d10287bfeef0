"""Distributing values over runs, so that each stays within a bound of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def runs(sizes: Mapping[str, int], limit: int) -> Iterator[tuple[str, ...]]:
    """Distribute values over runs, so that what one run returns stays within a limit.

    Args:
        sizes: The bytes of each value for one batch.
        limit: Bytes that one run may return. A value beyond it gets a run of its own.

    Yields:
        The names of one run, in the order of `sizes`.
    """
    names: list[str] = []
    held = 0
    for name, size in sizes.items():
        if names and held + size > limit:
            yield tuple(names)
            names, held = [], 0
        names.append(name)
        held += size
    if names:
        yield tuple(names)
