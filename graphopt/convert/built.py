"""What `module:callable` makes, and the framework that it is of."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

from graphopt.callables import import_callable
from graphopt.convert.quiet import quiet
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError

_PACKAGES = {
    # First: a layer of Keras is one of its backend, too.
    "keras": "keras",
    "tf_keras": "keras",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
    "flax": "jax",
}
"""Frameworks, as `--from` calls them, by the package of a class."""

_BUILT: ContextVar[tuple[str, object] | None] = ContextVar("built", default=None)


def build(spec: str) -> object:
    """Call a function without arguments, or return what it made when its framework was asked for.

    Raises:
        GraphoptError: It cannot be imported.
        Exception: What it raises.
    """
    built = _BUILT.get()
    if built is not None and built[0] == spec:
        return built[1]
    return import_callable(spec)()


@contextlib.contextmanager
def recognised(spec: str, default: str) -> Iterator[str]:
    """Tell of which framework a callable is, or what it makes; `build` does not make it again.

    That goes by the names of classes: nothing is imported but the module of the callable.

    Args:
        spec: `module:callable`.
        default: What it is taken for where nothing tells.

    Yields:
        The framework, a name of `--from`.

    Raises:
        GraphoptError: It cannot be imported, or fails.
    """
    with quiet():
        found = import_callable(spec)
        framework = _of_class(found)
        if framework is None and _takes_nothing(found):
            try:
                made = found()
            except GraphoptError:
                raise
            except Exception as error:
                # The user's function may raise anything.
                raise GraphoptError(f"fails: {first_line(error)}", file=spec) from error
        else:
            made = None
    token = _BUILT.set(None if made is None else (spec, made))
    try:
        yield framework or _framework_of(found if made is None else made) or default
    finally:
        _BUILT.reset(token)


def _takes_nothing(function: object) -> bool:
    if not callable(function):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return not any(
        item.default is item.empty and item.kind not in {item.VAR_POSITIONAL, item.VAR_KEYWORD}
        for item in parameters
    )


def _framework_of(made: object) -> str | None:
    """Go by the class of a network, else by those of its example inputs, else by its module."""
    parts = made if isinstance(made, tuple) else (made,)
    for part in parts:
        if (framework := _of_class(part)) is not None:
            return framework
    return _of_module(parts[0]) if parts else None


def _of_class(item: object) -> str | None:
    if isinstance(item, (list, tuple, dict)):
        inner = item.values() if isinstance(item, dict) else item
        return next((name for name in map(_of_class, inner) if name is not None), None)
    packages = {base.__module__.partition(".")[0] for base in type(item).__mro__}
    return next((name for package, name in _PACKAGES.items() if package in packages), None)


def _of_module(function: object) -> str | None:
    """Say that a plain function is of JAX where its module imports that, and no other framework."""
    scope = getattr(inspect.unwrap(function) if callable(function) else None, "__globals__", {})
    imported = {
        item.__name__.partition(".")[0] for item in scope.values() if isinstance(item, ModuleType)
    }
    frameworks = {_PACKAGES[package] for package in imported & _PACKAGES.keys()}
    return "jax" if frameworks == {"jax"} else None
