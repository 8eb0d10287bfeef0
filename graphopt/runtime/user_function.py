"""Functions that a user names as `module:function`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError

_SPEC = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_][\w.]*)")


def names_function(spec: str) -> bool:
    """Whether a text is of the form `module:function`."""
    return _SPEC.fullmatch(spec) is not None


def import_function(spec: str) -> Callable[..., Any]:
    """Import `module:function`; the module is looked for from the working directory, too.

    Raises:
        GraphoptError: It cannot be imported or called.
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise GraphoptError(f"{spec!r} is no function", fix="write module:function")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(found["module"])
        for part in found["function"].split("."):
            target = getattr(target, part)
    except Exception as error:
        # Whatever the user's module raises is the user's to read, as one line.
        raise GraphoptError(
            f"cannot be imported: {type(error).__name__}: {error}",
            file=spec,
            fix="name it as module:function, as seen from the working directory",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(target):
        raise GraphoptError("is not a function", file=spec)
    function: Callable[..., Any] = target
    return function
