"""What JAX and jax2onnx say where they fail, in one line, with the place in the user's code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphopt.convert.reasons import first_line

_PRIMITIVE = re.compile(r"primitive '(?P<name>[^']+)'")


def export_reason(
    errors: Sequence[Exception], call: Callable[..., Any], specs: Sequence[Any]
) -> str:
    """Say which primitive jax2onnx has no equal of, and where the function calls it.

    Args:
        errors: Of each attempt; where none names a primitive, the first is what is said.
        call: The function.
        specs: Shapes and types of its arrays.
    """
    names = [match["name"] for error in errors if (match := _PRIMITIVE.search(str(error)))]
    if not names:
        return f"jax2onnx fails: {first_line(errors[0])}"
    name = names[0]
    place = next(_places(call, specs, name), None)
    where = f" ({place})" if place else ""
    return f"jax2onnx does not support the primitive {name}{where}"


def _places(call: Callable[..., Any], specs: Sequence[Any], name: str) -> Iterator[str]:
    import jax

    yield from _in_jaxpr(jax.make_jaxpr(call)(*specs).jaxpr, name)


def _in_jaxpr(jaxpr: Any, name: str) -> Iterator[str]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield from _place(equation)
        for parameter in equation.params.values():
            inner = parameter if isinstance(parameter, tuple | list) else (parameter,)
            for item in inner:
                body = getattr(item, "jaxpr", item)
                if hasattr(body, "eqns"):
                    yield from _in_jaxpr(body, name)


def _place(equation: Any) -> Iterator[str]:
    """The line of the user's code: the innermost frame that belongs to no installed library."""
    traceback = getattr(equation.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        path = Path(frame.file_name)
        if not {"site-packages", "dist-packages", "graphopt"} & set(path.parts):
            yield f"{path.name}:{frame.line_num}"
            return
