"""The members that an expression's inputs go to, and those inputs: nothing in it feeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from graphopt.ensembles.expression import Applied, Chain, Expression, Member, Stack
from graphopt.ensembles.ports import Bundle, listed
from graphopt.ensembles.wiring import Wired
from graphopt.errors import GraphoptError

V = TypeVar("V")


def heads(expression: Expression) -> list[tuple[str, frozenset[str]]]:
    """Return the members in front, with the names of their inputs that are bound inside.

    Args:
        expression: Without names of statements (see `names.written_out`).
    """
    return list(dict.fromkeys(_heads(expression, frozenset())))


def head_inputs(
    expression: Expression,
    inputs: Callable[[str], Bundle],
    name: str | None = None,
    rank: int | None = None,
) -> list[tuple[str, str]]:
    """Return the inputs that an expression takes from outside, as members and names.

    Args:
        expression: As of `heads`.
        inputs: Describes those of a member.
        name: That they have; None: any.
        rank: That they have; None: any. What is named may have any.
    """
    return [
        (member, item.name)
        for member, bound in heads(expression)
        for item in inputs(member)
        if item.name not in bound
        and (
            item.name == name
            if name is not None
            else rank is None or (item.shape is not None and len(item.shape) == rank)
        )
    ]


def only_input(
    found: Sequence[tuple[str, Wired[V]]], identity: Callable[[V], object], title: str
) -> tuple[str, Wired[V]]:
    """Return the one input that is meant, with what feeds it.

    Args:
        found: Names of inputs with what feeds them.
        identity: Of what feeds them: the same for what is one value.
        title: Of the expression, for messages.

    Raises:
        GraphoptError: There is none, or there are several.
    """
    if not found:
        raise GraphoptError(f"{title}: no model in it has such an input", fix="say input='NAME'")
    name, wired = found[0]
    if any(other != name for other, _ in found):
        ports = listed({other: each.port for other, each in found}.values())
        raise GraphoptError(
            f"{title}: there are several inputs ({ports})", fix=f"say which one: input={name!r}"
        )
    if any(identity(other.value) is not identity(wired.value) for _, other in found):
        raise GraphoptError(
            f"{title}: {name!r} is another input of the ensemble for each of its models",
            fix="let their types and shapes agree, or write the models apart",
        )
    return name, wired


def _heads(expression: Expression, bound: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    match expression:
        case Member(name=name):
            yield name, bound
        case Chain(first=first):
            yield from _heads(first, bound)
        case Applied(of=of, bindings=bindings):
            yield from _heads(of, bound | {name for name, _ in bindings})
            for _, value in bindings:
                yield from _heads(value, bound)
        case Stack(of=operands):
            # The meta-model is fed by them.
            for operand in operands:
                yield from _heads(operand, bound)
        case _:
            for child in expression.children:
                yield from _heads(child, bound)
