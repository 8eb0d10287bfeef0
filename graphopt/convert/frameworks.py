"""The frameworks there are, and which of them a source comes from."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from graphopt.callables import is_callable_spec
from graphopt.convert.built import recognised
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.onnx.files import member_of
from graphopt.errors import GraphoptError

FRAMEWORKS = {
    # First: a SavedModel is a folder.
    "tensorflow": "graphopt.convert.tensorflow",
    "keras": "graphopt.convert.keras",
    "tflite": "graphopt.convert.tflite",
    # Before torch, which takes every pickle for its own.
    "sklearn": "graphopt.convert.sklearn",
    "torch": "graphopt.convert.torch",
    "xgboost": "graphopt.convert.boosting.xgboost",
    "lightgbm": "graphopt.convert.boosting.lightgbm",
    "catboost": "graphopt.convert.boosting.catboost",
    "jax": "graphopt.convert.jax",
    # Last: the archives of others may hold a model, too.
    "onnx": "graphopt.convert.onnx",
}
"""Modules by the name that `--from` takes. Each one has the two functions of `_Framework`."""

_DEFAULT_FOR_CALLABLES = "torch"
_STDIN = "-"


class _Framework(Protocol):
    def recognises(self, path: Path) -> bool:
        """Whether a file's content is of this framework; imports nothing heavy."""
        ...

    def convert(self, source: str, options: Options) -> Conversion:
        """Convert a file, or what `module:callable` returns."""
        ...


def convert(
    source: str, *, framework: str | None = None, options: Options | None = None
) -> Conversion:
    """Export a model of another framework to ONNX, and compare both on example inputs.

    Args:
        source: A file, or `module:callable`, which is called without arguments.
        framework: A key of `FRAMEWORKS`; None: recognised by the content of the file, or by the
            class of what a callable returns.
        options: What to ask for.

    Raises:
        GraphoptError: The source cannot be read or exported.
        CheckFailed: ONNX Runtime computes something else than the framework.
    """
    options = options or Options()
    if framework is None and _names_a_callable(source):
        with recognised(source, _DEFAULT_FOR_CALLABLES) as found:
            return _module(found).convert(source, options)
    chosen = framework or _recognised(source)
    if chosen not in FRAMEWORKS:
        raise GraphoptError(
            f"no framework is called {chosen!r}", fix=f"choose from {', '.join(FRAMEWORKS)}"
        )
    return _module(chosen).convert(source, options)


def _names_a_callable(source: str) -> bool:
    path, member = member_of(source)
    return member is None and is_callable_spec(source) and not path.exists()


def _recognised(source: str) -> str:
    if not source:
        raise GraphoptError(
            "no source is named", fix="give a file, or module:callable returning a model"
        )
    path, member = member_of(source)
    if member is not None or source == _STDIN:
        return "onnx"
    if not path.exists():
        raise GraphoptError(
            "no such file", file=source, fix="give a file, or module:callable returning a model"
        )
    if path.is_dir() and not _module("tensorflow").recognises(path):
        raise GraphoptError(
            "is a folder that holds no SavedModel",
            file=source,
            fix="give a SavedModel's folder, or a file",
        )
    for name in FRAMEWORKS:
        if _module(name).recognises(path):
            return name
    if not path.stat().st_size:
        raise GraphoptError("is empty", file=source, fix="save the model again")
    raise GraphoptError(
        "is of no framework that graphopt knows by its content",
        file=source,
        fix=f"name the framework with --from ({', '.join(FRAMEWORKS)})",
    )


def _module(name: str) -> _Framework:
    return cast("_Framework", importlib.import_module(FRAMEWORKS[name]))
