"""Functions that the user names as `module:function`, as seen from the working directory."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_callable_spec(text: str) -> bool:
    """Whether a text has the form `package.module:name.attribute`."""
    return _SPEC.fullmatch(text) is not None


def import_callable(spec: str) -> Callable[..., Any]:
    """Import what `module:function` names; modules of the working directory come first.

    Raises:
        GraphoptError: The text has another form, or the module or the name is not there, or it
            cannot be called.
    """
    if not is_callable_spec(spec):
        raise GraphoptError(
            f"{spec!r} does not name a function", fix="write module:function, as in train:build"
        )
    module_name, _, path = spec.partition(":")
    found: Any = _imported(spec, module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise GraphoptError(f"{module_name} has no {path}", file=spec)
        found = getattr(found, part)
    if not callable(found):
        raise GraphoptError(f"is a {type(found).__name__}, not a function", file=spec)
    function: Callable[..., Any] = found
    return function


def prints_to_stderr() -> contextlib.AbstractContextManager[object]:
    """Let what a function of the user prints go to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _imported(spec: str, module_name: str) -> object:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    # A module written a moment ago is not in the importer's folder listing yet.
    importlib.invalidate_caches()
    try:
        with prints_to_stderr():
            return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # The user's module may raise anything; as one line it is theirs to read.
        raise GraphoptError(
            f"cannot be imported: {type(error).__name__}: {error}",
            file=spec,
            fix="name a module that can be imported from the working directory",
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
