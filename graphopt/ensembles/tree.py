"""The tree of an expression: members, what feeds them, and what arithmetic makes of them.

Python's operators build it: `0.5 * a + 0.5 * (b >> c)`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from graphopt.ensembles import checks
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir


@dataclass(frozen=True)
class Expression:
    """A part of an ensemble. Python's operators build larger ones: `0.5 * a + 0.5 * (b >> c)`.

    `a["y"]` is an output of it, and so is `a.y`, as in text, where the name starts with no
    underscore and is no attribute of the class, such as `name` and `model` of a member, or `of`.
    Type checkers know the first form only, or no misspelled attribute would be an error to them.

    Args:
        column: Where it starts in the text it was read from, from 1; 0: it was not read.
    """

    column: int = field(default=0, compare=False, repr=False, kw_only=True)

    # Numbers of numpy leave the operators to us.
    __array_ufunc__: ClassVar[None] = None

    @property
    def children(self) -> tuple[Expression, ...]:
        """The expressions that this one is made of, in order."""
        return tuple(_expressions(getattr(self, item.name) for item in fields(self)))

    def walk(self) -> Iterator[Expression]:
        """Yield this expression and all below it, itself first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def __getitem__(self, name: str) -> Output:
        return Output(self, name)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Output:
            # Whoever copies, pickles or shows objects asks for names with an underscore.
            if name.startswith("_") or name in dir(type(self)):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return Output(self, name)

    def __call__(self, **bindings: Expression) -> Applied:
        """Feed inputs of the members from other expressions."""
        return Applied(self, tuple(bindings.items()))

    def __rshift__(self, other: Expression) -> Chain:
        return Chain(self, other) if isinstance(other, Expression) else NotImplemented

    def __add__(self, other: Expression | float) -> Sum:
        return _operate(other, lambda right: _joined(_parts(self), right))

    __radd__ = __add__

    def __sub__(self, other: Expression | float) -> Sum:
        return _operate(other, lambda right: _joined(_parts(self), _scaled(right, -1.0)))

    def __rsub__(self, other: Expression | float) -> Sum:
        return _operate(other, lambda right: _joined(_scaled(_parts(self), -1.0), right))

    def __mul__(self, other: Expression | float) -> Expression:
        if isinstance(other, Expression):
            return Combine("product", (self, other))
        if not isinstance(other, numbers.Real):
            return NotImplemented
        return Sum(((checks.finite(other, "a weight"), self),))

    def __rmul__(self, other: float) -> Expression:
        return self.__mul__(other)

    def __truediv__(self, other: float) -> Sum:
        if not isinstance(other, numbers.Real):
            return NotImplemented
        divisor = checks.finite(other, "a divisor")
        if divisor == 0:
            raise GraphoptError("it is divided by 0")
        return Sum(((checks.finite(1.0 / divisor, "a weight"), self),))

    def __pos__(self) -> Expression:
        return self

    def __neg__(self) -> Sum:
        return Sum(((-1.0, self),))


@dataclass(frozen=True)
class Member(Expression):
    """One model.

    Args:
        name: What the ensemble calls it: letters, digits and underscores.
        model: The model or its file; None: it is given by name when the ensemble is built.
    """

    name: str
    model: ir.Model | Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.check_name(self.name, "member")


@dataclass(frozen=True)
class Output(Expression):
    """One output of a bundle: `a.logits`, or `a["logits:0"]`."""

    of: Expression
    name: str

    def __post_init__(self) -> None:
        check_operands((self.of,), 1, "an output")
        checks.check_text(self.name, "an output")


@dataclass(frozen=True)
class Applied(Expression):
    """An expression whose members' inputs of these names are fed from others: `b(x=a.y)`."""

    of: Expression
    bindings: tuple[tuple[str, Expression], ...]

    def __post_init__(self) -> None:
        check_operands((self.of,), 1, "a call")
        if not self.bindings:
            raise GraphoptError("a call of a member says what feeds its inputs: b(x=a.y)")
        for name, value in self.bindings:
            checks.check_text(name, "an input")
            check_operands((value,), 1, f"{name}=")


@dataclass(frozen=True)
class Chain(Expression):
    """`first >> second`: the outputs of the first feed the members of the second."""

    first: Expression
    second: Expression

    def __post_init__(self) -> None:
        check_operands((self.first, self.second), 2, ">>")


@dataclass(frozen=True)
class Sum(Expression):
    """A weighted sum plus a number. Weights are taken as they are and never normalized.

    Args:
        terms: Weights with what they scale.
        bias: What is added to each element.
    """

    terms: tuple[tuple[float, Expression], ...]
    bias: float = 0.0

    def __post_init__(self) -> None:
        check_operands(tuple(of for _, of in self.terms), 1, "a sum")
        for weight, _ in self.terms:
            checks.finite(weight, "a weight")
        checks.finite(self.bias, "a number")


@dataclass(frozen=True)
class Combine(Expression):
    """Element by element: mean, median, min, max, product or geometric_mean.

    Args:
        function: Which.
        of: What is combined.
        weights: Of mean and geometric_mean: one each, divided by their sum; None: equal.
    """

    function: str
    of: tuple[Expression, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checks.check_choice(self.function, checks.COMBINATIONS, "a combination")
        check_operands(self.of, 1, self.function)
        if self.weights is not None:
            if not self.function.endswith("mean"):
                raise GraphoptError(f"{self.function} has no weights")
            checks.averaging(self.weights, len(self.of), f"{self.function}: weights")


def _expressions(values: object) -> Iterator[Expression]:
    if isinstance(values, Expression):
        yield values
    elif isinstance(values, Iterator | tuple):
        for value in values:
            yield from _expressions(value)


_Parts = tuple[tuple[tuple[float, Expression], ...], float]
"""The terms and the bias of a sum."""


def _operate(other: object, build: Callable[[_Parts], _Parts]) -> Sum:
    if isinstance(other, Expression):
        return Sum(*build(_parts(other)))
    if isinstance(other, numbers.Real):
        return Sum(*build(((), checks.finite(other, "a number"))))
    return NotImplemented  # type: ignore[no-any-return]  # how operators tell Python to go on


def _parts(expression: Expression) -> _Parts:
    if isinstance(expression, Sum):
        return expression.terms, expression.bias
    return ((1.0, expression),), 0.0


def _scaled(parts: _Parts, factor: float) -> _Parts:
    terms, bias = parts
    return tuple((weight * factor, of) for weight, of in terms), bias * factor


def _joined(first: _Parts, second: _Parts) -> _Parts:
    return first[0] + second[0], first[1] + second[1]


def check_operands(operands: tuple[object, ...], least: int, what: str) -> None:
    """Refuse too few operands, and what is no expression."""
    checks.check_count(operands, least, what)
    for operand in operands:
        if not isinstance(operand, Expression):
            shown = repr(operand) if isinstance(operand, str | float) else type(operand).__name__
            raise GraphoptError(f"{what} is of members and expressions, not {shown[:60]}")
