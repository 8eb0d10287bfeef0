"""A TensorFlow computation as a flat function, whatever file or object it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

Sizes = tuple[int | None, ...]

_TRACE = (
    "in user code", "File ", "Exception encountered", "Traceback", "Graph execution error",
    "Detected at node", "node ", "[[{{", "<stack traces", "Stack trace",
)  # fmt: skip
"""How lines begin that say where TensorFlow was, and not what is wrong."""


@dataclass(frozen=True)
class Input:
    """One tensor that goes in.

    Args:
        name: As the source calls it.
        dtype: A `tf.DType`.
        shape: Sizes, None where any size may come; None: of any rank.
        free: The sizes are those of an example, and each may vary.
    """

    name: str
    dtype: Any
    shape: Sizes | None
    free: bool = False


@dataclass(frozen=True)
class Network:
    """What is converted, and compared with.

    Args:
        source: What messages call it.
        call: Takes one tensor per input, and returns one per output, in order.
        inputs: What goes in.
        outputs: Names of what comes out; None: they are found when it is traced.
        owner: The object that keeps variables and lookup tables alive.
        examples: One array per input, where the source has examples.
        advice: What to do where it cannot be exported.
    """

    source: str
    call: Callable[..., Sequence[Any]]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] | None
    owner: object
    examples: tuple[Array, ...] | None = None
    advice: str | None = None


def sizes_of(shape: Any) -> Sizes | None:
    """Return the sizes of TensorFlow's shape; None: of any rank."""
    return None if shape.rank is None else tuple(shape.as_list())


def reason(error: BaseException) -> str:
    """Name an error and the first line that says something, without TensorFlow's traces."""
    return first_line(error, _TRACE)


def unique_names(names: Sequence[str], what: str, source: str) -> tuple[str, ...]:
    """Check that names are given once.

    Raises:
        GraphoptError: One is given twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise GraphoptError(f"two {what}s are called {name!r}", file=source)
    return tuple(names)
