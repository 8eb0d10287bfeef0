"""What the parts of an expression must be; the same for text and for Python's operators."""

from __future__ import annotations

import keyword
import math
import numbers
import re
from collections.abc import Sequence

from graphopt.errors import GraphoptError
from graphopt.pipeline.registry import nearest

FUNCTIONS = (
    "mean",
    "geometric_mean",
    "median",
    "min",
    "max",
    "product",
    "vote",
    "softmax",
    "log_softmax",
    "sigmoid",
    "argmax",
    "cascade",
    "stack",
    "tta",
    "subset",
    "bag",
    "boost",
    "soup",
    "task_vectors",
    "slerp",
)
"""The names that `graphopt.ensembles.functions` defines, which nothing else can have."""

COMBINATIONS = ("mean", "geometric_mean", "median", "min", "max", "product")
ACTIVATIONS = ("softmax", "log_softmax", "sigmoid", "argmax")
TIES = ("lowest", "first", "mean")
RULES = ("max_probability", "margin", "entropy")
FLIPS = ("flip", "vertical", "both")
SOUPS = {"mean": "soup", "task": "task_vectors", "slerp": "slerp"}
"""The functions that make soups, by method."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LONGEST_NAME = 200


def check_name(name: object, what: str) -> None:
    """Refuse a name that an expression cannot write.

    Args:
        name: It.
        what: What has it: "member", "output".

    Raises:
        GraphoptError: It has other than letters, digits and underscores, is a word of Python,
            or the name of a function.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise GraphoptError(
            f"{shown(name)} cannot be the name of a {what}",
            fix="use letters, digits and underscores, a letter first",
        )
    if keyword.iskeyword(name):
        raise GraphoptError(f"a {what} cannot be called {name!r}: Python has this word")
    if name in FUNCTIONS:
        raise GraphoptError(
            f"a {what} cannot be called {name!r}: this is a function",
            fix=f"call it {name}_model" if what == "member" else "choose another name",
        )


def check_choice(name: object, choices: Sequence[str], what: str) -> None:
    """Refuse what is none of the choices."""
    if not isinstance(name, str) or name not in choices:
        fix = nearest(name, choices) if isinstance(name, str) else f"use {', '.join(choices)}"
        raise GraphoptError(f"{what} is one of {', '.join(choices)}, not {shown(name)}", fix=fix)


def check_count(operands: Sequence[object], least: int, what: str) -> None:
    """Refuse too few operands."""
    if len(operands) < least:
        given = "none is given" if not operands else f"{len(operands)} is given"
        wanted = "one member or expression" if least == 1 else f"{least} members or expressions"
        raise GraphoptError(f"{what} wants at least {wanted}, and {given}")


def finite(value: object, what: str) -> float:
    """Return a number as a float.

    Raises:
        GraphoptError: It is no number, or not finite as a float.
    """
    if type(value) is float and math.isfinite(value):
        # Sums of many terms check each of them with every term that is added.
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise GraphoptError(f"{what} is a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise GraphoptError(f"{what} is not a finite number")
    return number


def share(value: object, what: str) -> float:
    """Return a number from 0 to 1."""
    number = finite(value, what)
    if not 0 <= number <= 1:
        raise GraphoptError(f"{what} is {number:g}, and must be from 0 to 1")
    return number


def factors(values: object, count: int, what: str) -> tuple[float, ...]:
    """Return one finite number for each of `count` operands."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        values = _listed(values, what)
    found = tuple(finite(value, what) for value in values)
    if len(found) != count:
        raise GraphoptError(f"{what}: {len(found)} for {count} operands", fix="give one for each")
    return found


def averaging(values: object, count: int, what: str) -> tuple[float, ...]:
    """Return weights that are divided by their sum, which must not be 0."""
    found = factors(values, count, what)
    if sum(found) == 0:
        raise GraphoptError(f"{what} sum to 0, and are to be divided by their sum")
    return found


def votes(values: object, count: int, what: str) -> tuple[float, ...]:
    """Return numbers of votes: none negative, not all 0."""
    found = factors(values, count, what)
    if min(found) < 0:
        raise GraphoptError(f"{what}: {min(found):g} votes are less than none")
    if not any(found):
        raise GraphoptError(f"{what} are all 0: nobody has a vote")
    return found


def thresholds(value: object, stages: int, what: str) -> tuple[float, ...]:
    """Return one threshold for each stage but the last, where one number stands for all."""
    if isinstance(value, numbers.Real):
        return (share(value, what),) * (stages - 1)
    found = tuple(share(item, what) for item in _listed(value, what))
    if len(found) != stages - 1:
        raise GraphoptError(
            f"{what}: {len(found)} for {stages} stages", fix=f"give one, or {stages - 1}"
        )
    return found


def indices(values: object, what: str) -> tuple[int, ...]:
    """Return columns: at least one whole number from 0 on."""
    found = _listed(values, what)
    if not found:
        raise GraphoptError(f"{what} name none")
    for value in found:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < 0:
            raise GraphoptError(f"{what} are whole numbers from 0 on, not {shown(value)}")
    return tuple(int(value) for value in found)  # type: ignore[call-overload]  # checked above


def whole(value: object, what: str) -> int:
    """Return a whole number that an axis can be."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise GraphoptError(f"{what} is a whole number, not {shown(value)}")
    if not -_MAX_RANK <= int(value) < _MAX_RANK:
        raise GraphoptError(f"{what} is {shown(int(value))}, and no tensor has so many")
    return int(value)


def check_text(value: object, what: str) -> None:
    """Refuse what is no name of an input or output."""
    if not isinstance(value, str) or not value:
        raise GraphoptError(f"{what} is a name in quotes, not {shown(value)}")


_MAX_RANK = 64


def _listed(values: object, what: str) -> Sequence[object]:
    tolist = getattr(type(values), "tolist", None)
    if callable(tolist):
        values = tolist(values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise GraphoptError(f"{what} are a list of numbers, not {shown(values)}")
    return values


def shown(value: object) -> str:
    """Write a value for a message, cut where it is long."""
    # The text of a number may be of any length, and making it as slow as one likes.
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    if isinstance(value, str | int | float | bool | None):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    return f"a {type(value).__name__}"
