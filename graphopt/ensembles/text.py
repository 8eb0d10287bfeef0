"""Ensembles as text, in Python's own syntax; read with `ast`, never evaluated.

probabilities = mean(softmax(a.logits), b.probabilities); label = argmax(probabilities)
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings

from graphopt.ensembles import checks
from graphopt.ensembles.expression import Expression, Program
from graphopt.ensembles.reader import EXAMPLE, Reader
from graphopt.ensembles.refusals import named
from graphopt.ensembles.source import ExpressionError, Source
from graphopt.ensembles.unparse import unparse
from graphopt.errors import GraphoptError

__all__ = ["MAX_TEXT", "ExpressionError", "as_program", "parse", "unparse"]

MAX_TEXT = 65536
"""Characters; metadata of a hostile model may hold more, and nobody writes it."""


def parse(text: str) -> Program:
    """Read an ensemble.

    Args:
        text: One expression, or statements `name = expression` on lines or between `;`. Names
            that are no functions are members, or earlier statements.

    Raises:
        ExpressionError: The text is no ensemble; it shows where.
        GraphoptError: It is empty or too long.
    """
    if len(text) > MAX_TEXT:
        raise GraphoptError(f"the ensemble's text is longer than {MAX_TEXT} characters")
    source = Source(text)
    reader = Reader(source)
    statements = [_statement(node, reader) for node in _tree(source)]
    return reader.guarded(statements[-1][0], lambda: Program(tuple(item[1] for item in statements)))


def as_program(given: Program | Expression | str) -> Program:
    """Return a program, whatever form it is given in.

    Raises:
        GraphoptError: It is none, or a text that cannot be read.
    """
    if isinstance(given, str):
        return parse(given)
    if isinstance(given, Expression):
        return Program(((None, given),))
    if not isinstance(given, Program):
        raise GraphoptError(
            f"an ensemble is an expression over members, not {type(given).__name__}",
            fix='write it as text, "mean(a, b)", or with operators, 0.5 * a + 0.5 * b',
        )
    return given


def _tree(source: Source) -> list[ast.stmt]:
    text = source.stripped
    if "\0" in text:
        raise source.at_index(text.index("\0"), "a null character is in it")
    try:
        with warnings.catch_warnings():
            # What Python has to say of text that is never run concerns nobody.
            warnings.simplefilter("ignore")
            tree = ast.parse(text).body
    except SyntaxError as error:
        raise _syntax_error(error, source) from None
    except (ValueError, RecursionError, MemoryError) as error:
        cause = str(error)[:100] if isinstance(error, ValueError) else "it nests too deep"
        raise source.near(1, 0, f"the ensemble cannot be read: {cause}") from None
    _refuse_comments(source)
    if not tree:
        raise GraphoptError("the ensemble's text is empty", fix=EXAMPLE)
    return tree


def _syntax_error(error: SyntaxError, source: Source) -> ExpressionError:
    message = error.msg.partition(" (")[0]
    if "integer string conversion" in error.msg:
        message = "a number has too many digits"
    return source.near(error.lineno or 1, (error.offset or 1) - 1, message, EXAMPLE)


def _refuse_comments(source: Source) -> None:
    """Refuse what the parser would skip: everything behind a `#`."""
    for token in tokenize.generate_tokens(io.StringIO(source.stripped).readline):
        if token.type == tokenize.COMMENT:
            raise source.near(*token.start, "an ensemble holds no comments")


def _statement(node: ast.stmt, reader: Reader) -> tuple[ast.stmt, tuple[str | None, Expression]]:
    if isinstance(node, ast.Expr):
        return node, (None, reader.expression(node.value))
    if not isinstance(node, ast.Assign):
        raise reader.at(node, f"{named(node)} is not for ensembles", EXAMPLE)
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        raise reader.at(node, "a statement gives one name to one expression", EXAMPLE)
    target = node.targets[0]
    name = reader.spelled(target)
    reader.guarded(target, lambda: checks.check_name(name, "output"))
    return node, (name, reader.expression(node.value))
