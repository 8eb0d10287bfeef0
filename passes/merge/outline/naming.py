"""Readable names for repeated blocks, from the names that their nodes have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

import onnx_ir as ir

_SEPARATORS = re.compile(r"(?<=[/.])")
_OPERATORS = 3
_LIKE_AN_OPERATOR = re.compile(r"[A-Z][A-Za-z0-9]*")


def prefix(nodes: Sequence[ir.Node]) -> str:
    """Return what the names of all nodes start with, up to a `/` or a `.`; often empty."""
    names = [_SEPARATORS.split(node.name or "") for node in nodes]
    columns = zip(*(parts[:-1] for parts in names), strict=False)
    return "".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, columns))


def block_name(occurrences: Sequence[Sequence[ir.Node]]) -> str:
    """Name a block after the part of its names that tells occurrences apart, its number left out.

    `/encoder/layer.0/`, `/encoder/layer.1/` give `layer`; without such names, the first operators.
    No name is one that an operator may have: ONNX Runtime looks at some without their domain, and
    a function called `Sub` ends its process.
    """
    name = _name(occurrences)
    return f"{name}_block" if _LIKE_AN_OPERATOR.fullmatch(name) else name


def _name(occurrences: Sequence[Sequence[ir.Node]]) -> str:
    split = [_words(prefix(nodes)) for nodes in occurrences]
    shared = list(takewhile(lambda words: len(set(words)) == 1, zip(*split, strict=False)))
    own = [words[len(shared)] if len(words) > len(shared) else "" for words in split]
    stems = {re.sub(r"[^A-Za-z]+$", "", word) for word in own}
    if len(stems) == 1 and (stem := stems.pop()):
        return _identifier(stem)
    letters = [word for (word, *_) in shared if re.search("[A-Za-z]", word)]
    if letters:
        return _identifier(letters[-1])
    if all(own) and len(set(own)) == len(own):
        return "member"
    operators = dict.fromkeys(node.op_type for node in occurrences[0])
    return _identifier("_".join(list(operators)[:_OPERATORS]))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[/.]", text) if word]


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "block"


def inner_name(name: str, start: str, taken: set[str]) -> str:
    """Return a name without what all of its block starts with, and reserve it."""
    base = name.removeprefix(start) or name
    free, number = base, 0
    while free in taken:
        number += 1
        free = f"{base}_{number}"
    taken.add(free)
    return free
