"""What Keras says where it cannot load a file, without the pages of configs that it shows."""

from __future__ import annotations

import re

from graphopt.convert.tensorflow.network import reason

_INNER = "Exception encountered:"
_LAYER = re.compile(r"Error when deserializing class '(\w+)' using config=\{'name': '([^']*)'")
_ADVICE = re.compile(r"\. (?:See|Please|Did you|If you|Make sure) .*")
_LONGEST = 200


def why_not_loaded(error: BaseException) -> str:
    """Name the layer that could not be made, where Keras does, and what went wrong in it.

    Keras wraps an error in others, which show the config of all that holds it.
    """
    text = str(error)
    inner = next(iter(text.rpartition(_INNER)[2].strip().splitlines()), "")
    if _INNER not in text or not inner:
        return _ADVICE.sub("", reason(error))[:_LONGEST]
    layers = _LAYER.findall(text)
    named = f"{layers[-1][0]} {layers[-1][1]!r}: " if layers else ""
    return named + _ADVICE.sub("", inner)[:_LONGEST]
