"""The names that statements give, written out: every name left is a member's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from graphopt.ensembles.expression import Expression, Member, Program, Soup


def written_out(program: Program) -> tuple[tuple[str | None, Expression], ...]:
    """Return the outputs of a program, without the names of earlier statements in them.

    Equal parts stay one object: what is named twice is not copied.
    """
    named: dict[str, Expression] = {}
    found = []
    for name, expression in program.statements:
        plain = substituted(expression, named)
        if name is not None:
            named[name] = plain
        if not (name or "").startswith("_"):
            found.append((name, plain))
    return tuple(found)


def substituted(expression: Expression, named: Mapping[str, Expression]) -> Expression:
    """Return an expression with others in the place of members of these names."""
    if not named:
        return expression
    if isinstance(expression, Member):
        return named.get(expression.name, expression)
    return rebuilt(expression, lambda child: substituted(child, named))


def without_soups(expression: Expression, cooked: Callable[[Soup], str]) -> Expression:
    """Return an expression with members in the place of soups.

    Args:
        expression: It.
        cooked: Returns what the member is called that a soup becomes.
    """
    if isinstance(expression, Soup):
        return Member(cooked(expression), column=expression.column)
    return rebuilt(expression, lambda child: without_soups(child, cooked))


def rebuilt(expression: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """Return an expression with its children changed; itself where no child changes.

    Args:
        expression: It.
        change: Called with each child, returns what stands in its place.
    """
    changed = {}
    for item in fields(expression):
        before = getattr(expression, item.name)
        after = _changed(before, change)
        if after is not before:
            changed[item.name] = after
    return replace(expression, **changed) if changed else expression


def _changed(value: Any, change: Callable[[Expression], Expression]) -> Any:
    if isinstance(value, Expression):
        return change(value)
    if isinstance(value, tuple):
        items = tuple(_changed(item, change) for item in value)
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else items
    return value
