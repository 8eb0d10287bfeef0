"""The axis of channels of batches, whose number of axes may differ."""

from __future__ import annotations


def position(axis: int, shape: tuple[int, ...]) -> int:
    """Return an axis counted from the front.

    Args:
        axis: It may be negative, and counts from the end then.
        shape: The shape of a batch.

    Raises:
        ValueError: There is no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"no axis {axis} in shape {shape}")
    return axis % len(shape)


def others(axis: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return all axes but one, which `position` would find.

    Raises:
        ValueError: There is no such axis.
    """
    kept = position(axis, shape)
    return tuple(other for other in range(len(shape)) if other != kept)


def require_same(axis: int, other: int) -> None:
    """Let statistics merge only where both count channels along the same axis.

    Raises:
        ValueError: They do not.
    """
    if other != axis:
        raise ValueError(f"axis {other} does not merge into axis {axis}")
