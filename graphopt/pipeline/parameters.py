"""The parameters of passes: literals, their text, and the annotations they must fit."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import math
import numbers
import sys
import types
import typing
from collections.abc import Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {"inf": math.inf, "nan": math.nan}


class ParameterError(ValueError):
    """A value that does not fit, or that text cannot hold.

    Args:
        message: What about it.
        node: Where it stands in the text.
    """

    def __init__(self, message: str, node: ast.expr | None = None) -> None:
        super().__init__(message)
        self.node = node


def literal(node: ast.expr) -> object:
    """Read a literal: a string, number, bool, None, list, tuple or dict; also `inf` and `nan`.

    Raises:
        ParameterError: It is anything else.
    """
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return _signed(sign, literal(operand), node)
        case ast.List(elts=items):
            return [literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(literal(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return dict(_pairs(keys, values, node))
    raise ParameterError("a parameter is a string, number, bool, None, list, tuple or dict", node)


def _signed(sign: ast.unaryop, value: object, node: ast.expr) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParameterError("a sign belongs before a number", node)
    return -value if isinstance(sign, ast.USub) else value


def _pairs(
    keys: Sequence[ast.expr | None], values: Sequence[ast.expr], node: ast.expr
) -> list[tuple[object, object]]:
    pairs = []
    for key, value in zip(keys, values, strict=True):
        if key is None:
            raise ParameterError("** is not for pipelines", node)
        name = literal(key)
        if isinstance(name, list | dict):
            raise ParameterError("a key is a string or a number", key)
        pairs.append((name, literal(value)))
    return pairs


def unparse_value(value: object) -> str:  # noqa: PLR0911 - one return per kind of value
    """Write a value as `literal` reads it.

    Raises:
        ParameterError: Text cannot hold it.
    """
    match value:
        case enum.Enum():
            return unparse_value(value.value)
        case None | bool():
            return repr(value)
        case str():
            return _quoted(value)
        case PurePath():
            return _quoted(value.as_posix())
        # These two bases also cover numpy's scalars, whose own repr is no literal.
        case numbers.Integral():
            return repr(int(value))
        case numbers.Real():
            return repr(float(value))
    return _unparse_container(value)


def _unparse_container(value: object) -> str:
    match value:
        case tuple():
            return f"({', '.join(map(unparse_value, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{', '.join(map(unparse_value, value))}]"
        case AbstractSet():
            # A set's order depends on the hash seed; text must not.
            return f"[{', '.join(sorted(map(unparse_value, value)))}]"
        case Mapping():
            pairs = (f"{unparse_value(key)}: {unparse_value(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
    raise ParameterError(f"cannot be written as text: {value!r}")


def _quoted(value: str) -> str:
    # repr chooses double quotes for a string that holds a single one and no double one.
    text = repr("'" + value)
    return '"' + text[2:] if text[0] == '"' else repr(value)


def conform(value: object, hint: object) -> object:  # noqa: PLR0911 - one return per kind of hint
    """Return a literal as the type that a parameter is annotated with.

    An int serves as a float, a list as a tuple and the other way round, a string as a path or the
    value of an enum.

    Raises:
        ParameterError: It does not fit.
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return conform(value, options[0])
    if origin in (Union, types.UnionType):
        return _conform_union(value, options)
    if origin is Literal:
        return _conform_literal(value, options)
    kind = origin or hint
    if kind in (Any, object):
        return value
    if not isinstance(kind, type):
        raise ParameterError("does not fit")
    if issubclass(kind, Mapping | MutableMapping):
        return _conform_mapping(value, options)
    if kind is not str and issubclass(kind, Sequence | AbstractSet):
        return _conform_sequence(value, kind, options)
    return _conform_scalar(value, kind)


def _conform_union(value: object, options: Sequence[object]) -> object:
    # What fits as it is goes before what must be converted: 1 stays an int in `float | int`.
    fitting = []
    for option in options:
        try:
            fitting.append(conform(value, option))
        except ParameterError:
            continue
    if not fitting:
        raise ParameterError("does not fit")
    return next((item for item in fitting if type(item) is type(value)), fitting[0])


def _conform_literal(value: object, options: Sequence[object]) -> object:
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    raise ParameterError("does not fit")


def _conform_scalar(value: object, kind: type) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, enum.Enum):
        for member in kind:
            if type(member.value) is type(value) and member.value == value:
                return member
    if issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    if type(value) is kind:
        return value
    raise ParameterError("does not fit")


def _conform_mapping(value: object, options: Sequence[object]) -> object:
    if not isinstance(value, dict):
        raise ParameterError("does not fit")
    key, item = options or (object, object)
    return {conform(k, key): conform(v, item) for k, v in value.items()}


def _conform_sequence(value: object, kind: type, options: Sequence[object]) -> object:
    if not isinstance(value, list | tuple):
        raise ParameterError("does not fit")
    if issubclass(kind, tuple) and options and options[-1] is not Ellipsis:
        if len(options) != len(value):
            raise ParameterError("does not fit")
        return tuple(conform(v, option) for v, option in zip(value, options, strict=True))
    items = [conform(v, options[0] if options else object) for v in value]
    if issubclass(kind, tuple):
        return tuple(items)
    if issubclass(kind, AbstractSet):
        return frozenset(items)
    return items if issubclass(kind, list) else type(value)(items)


def hint_of(found: type, field: dataclasses.Field[object]) -> object:
    """Return the annotation of a dataclass field; the other fields' need not be resolvable.

    Raises:
        ParameterError: It names a type that its module does not have at run time.
    """
    owner = next(base for base in found.__mro__ if field.name in inspect.get_annotations(base))
    alone = types.SimpleNamespace(__annotations__={field.name: field.type})
    try:
        names = vars(sys.modules[owner.__module__])
        return typing.get_type_hints(alone, names, dict(vars(owner)))[field.name]
    except NameError as error:
        message = f"{field.name!r} has an annotation that cannot be resolved: {error}"
        raise ParameterError(message) from error


def describe(hint: object) -> str:
    """Say in words what a parameter takes."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return describe(options[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe, options)))
    if origin is Literal:
        return " or ".join(map(unparse_value, options))
    if hint is None or hint is type(None):
        return "None"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(unparse_value(member.value) for member in hint)
    kind: Any = origin or hint
    names = {bool: "True or False", Any: "anything", object: "anything"}
    name = names.get(kind, getattr(kind, "__name__", str(kind)))
    inner = [describe(option) for option in options if option is not Ellipsis]
    return f"{name} of {', '.join(inner)}" if inner else name
