"""Pipelines as text: Python's call syntax, joined by `|`; read with `ast`, never evaluated.

cleanup | threshold(sparsity=0.5, include="conv*")
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import tokenize
from collections.abc import Callable, Iterable, Mapping

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Pass
from graphopt.pipeline.parameters import (
    ParameterError,
    conform,
    describe,
    hint_of,
    literal,
    unparse_value,
)
from graphopt.pipeline.registry import Registry, nearest

MAX_TEXT = 65536
"""Characters of pipeline text; metadata of a hostile model may hold more, and nobody writes it."""

MAX_PASSES = 1000
"""In one pipeline, for the same reason."""

_WINDOW = 72


class PipelineError(GraphoptError):
    """Pipeline text that says nothing that can be run; shows where.

    Args:
        cause: What is wrong, in one clause.
        text: The pipeline text.
        column: Where in it, counted in characters from 0.
        fix: What the user can do about it.
    """

    def __init__(self, cause: str, text: str, column: int, fix: str | None = None) -> None:
        super().__init__(cause, fix=fix)
        self.text = text
        self.column = column

    def __str__(self) -> str:
        start = max(0, self.column - _WINDOW // 2)
        line = self.text[start : start + _WINDOW]
        shown = "".join(char if char.isprintable() else " " for char in line)
        return f"{super().__str__()}\n  {shown}\n  {' ' * (self.column - start)}^"


def parse(text: str, registry: Registry | None = None) -> tuple[Pass, ...]:
    """Read a pipeline.

    Args:
        text: Calls joined by `|`, with keyword arguments only; `name` is short for `name()`.
        registry: Where to look passes up; None: what is installed.

    Raises:
        PipelineError: The text is no pipeline, or names a pass or a parameter that is not there,
            or a value that the parameter does not take.
        GraphoptError: A pass that it names does not load.
    """
    registry = Registry.installed() if registry is None else registry
    return tuple(_Reader(text, registry).passes())


def unparse(passes: Iterable[Pass]) -> str:
    """Write a pipeline as text that `parse` reads back to equal passes.

    Only parameters that differ from their defaults are written.

    Raises:
        GraphoptError: A parameter has a value that text cannot hold.
    """
    return " | ".join(_unparse_pass(step, unparse_value) for step in passes)


def label(step: Pass) -> str:
    """Write a pass for people to read: as `unparse`, or with Python's `repr` where text ends."""
    return _unparse_pass(step, _for_people)


def _unparse_pass(step: Pass, write: Callable[[object], str]) -> str:
    written = []
    for field in parameters(type(step)):
        value = getattr(step, field.name)
        if not _is_default(field, value):
            try:
                written.append(f"{field.name}={write(value)}")
            except ParameterError as error:
                raise GraphoptError(f"{step.name}: parameter {field.name!r} {error}") from None
    return f"{step.name}({', '.join(written)})" if written else step.name


def _for_people(value: object) -> str:
    try:
        return unparse_value(value)
    except ParameterError:
        return repr(value)


def parameters(found: type[Pass]) -> tuple[dataclasses.Field[object], ...]:
    """Return the fields of a pass that a caller sets."""
    return tuple(field for field in dataclasses.fields(found) if field.init)


def default_of(field: dataclasses.Field[object]) -> object:
    """Return a parameter's default; `dataclasses.MISSING` where it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_default(field: dataclasses.Field[object], value: object) -> bool:
    default = default_of(field)
    return type(default) is type(value) and default == value


class _Reader:
    """Turns one text into passes, and knows where each part of it stands."""

    def __init__(self, text: str, registry: Registry) -> None:
        self._registry = registry
        # One line, so that a column means the same to the parser and to the reader of a message.
        self._text = text.replace("\r", " ").replace("\n", " ")
        self._lead = len(self._text) - len(self._text.lstrip())

    def passes(self) -> Iterable[Pass]:
        return [self._pass(step) for step in self._steps(self._tree())]

    def _tree(self) -> ast.expr:
        if len(self._text) > MAX_TEXT:
            raise GraphoptError(f"the pipeline text is longer than {MAX_TEXT} characters")
        if not self._text.strip():
            raise PipelineError("the pipeline is empty", self._text, 0, fix=_example())
        source = self._text.strip()
        try:
            tree = ast.parse(source, mode="eval").body
        except SyntaxError as error:
            message, column = _syntax_error(error, source)
            raise self._error(message, column + self._lead, fix=_example()) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._error(f"the pipeline cannot be read: {error}", 0) from None
        self._refuse_comments(source)
        return tree

    def _refuse_comments(self, source: str) -> None:
        """Refuse what the parser would skip: everything behind a `#`."""
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                raise self._error("a pipeline holds no comments", token.start[1] + self._lead)

    def _steps(self, tree: ast.expr) -> list[ast.expr]:
        steps: list[ast.expr] = []
        while isinstance(tree, ast.BinOp):
            if not isinstance(tree.op, ast.BitOr):
                raise self._at(tree.right, "passes are joined by |")
            steps.append(tree.right)
            tree = tree.left
            if len(steps) >= MAX_PASSES:
                raise self._error(f"the pipeline has more than {MAX_PASSES:,} passes", 0)
        return [tree, *reversed(steps)]

    def _pass(self, step: ast.expr) -> Pass:
        called = step.func if isinstance(step, ast.Call) else step
        if not isinstance(called, ast.Name):
            raise self._at(step, "this is no pass", fix=_example())
        if called.id not in self._registry:
            raise self._at(
                called, f"there is no pass {called.id!r}", fix=nearest(called.id, self._registry)
            )
        found = self._registry.load(called.id)
        values = self._arguments(step, found) if isinstance(step, ast.Call) else {}
        return self._make(called, found, values)

    def _arguments(self, call: ast.Call, found: type[Pass]) -> Mapping[str, object]:
        known = {field.name: field for field in parameters(found)}
        if call.args:
            fix = self._named(call.args[0], found) if known else f"{found.name} takes none"
            raise self._at(call.args[0], f"{found.name}: parameters are named", fix=fix)
        values: dict[str, object] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise self._at(keyword, f"{found.name}: ** is not for pipelines")
            if keyword.arg not in known:
                cause = f"{found.name} has no parameter {keyword.arg!r}"
                raise self._at(keyword, cause, fix=nearest(keyword.arg, known))
            if keyword.arg in values:
                raise self._at(keyword, f"{found.name}: parameter {keyword.arg!r} is given twice")
            values[keyword.arg] = self._value(keyword, found, known[keyword.arg])
        return values

    def _named(self, argument: ast.expr, found: type[Pass]) -> str:
        """Say which parameters take the value of an argument that names none."""
        text = ast.unparse(argument)
        taking = []
        for field in parameters(found):
            with contextlib.suppress(ParameterError):
                conform(literal(argument), hint_of(found, field))
                taking.append(f"{field.name}={text}")
        if not taking:
            return f"{found.name} has {', '.join(field.name for field in parameters(found))}"
        *others, last = taking
        return f"write {', '.join(others)} or {last}" if others else f"write {last}"

    def _value(
        self, keyword: ast.keyword, found: type[Pass], field: dataclasses.Field[object]
    ) -> object:
        try:
            hint = hint_of(found, field)
            value = literal(keyword.value)
        except ParameterError as error:
            raise self._at(error.node or keyword.value, f"{found.name}: {error}") from None
        try:
            return conform(value, hint)
        except ParameterError:
            wanted = describe(hint)
            cause = (
                f"{found.name}: parameter {keyword.arg!r} is {wanted}, not {unparse_value(value)}"
            )
            raise self._at(keyword.value, cause) from None

    def _make(self, called: ast.Name, found: type[Pass], values: Mapping[str, object]) -> Pass:
        for field in parameters(found):
            if field.name not in values and default_of(field) is dataclasses.MISSING:
                raise self._at(called, f"{found.name} needs the parameter {field.name!r}")
        try:
            return found(**values)
        except GraphoptError as error:
            raise self._at(called, error.cause, fix=error.fix) from error
        # A pass checks its parameters in its own words, and in Python those are these two.
        except (TypeError, ValueError) as error:
            raise self._at(called, f"{found.name}: {error}") from error

    def _at(
        self, node: ast.expr | ast.keyword, cause: str, fix: str | None = None
    ) -> PipelineError:
        # ast counts bytes of UTF-8; a reader counts characters.
        encoded = self._text.strip().encode()[: node.col_offset]
        return self._error(cause, len(encoded.decode()) + self._lead, fix)

    def _error(self, cause: str, column: int, fix: str | None = None) -> PipelineError:
        return PipelineError(f"{cause} (column {column + 1})", self._text, column, fix)


def _example() -> str:
    return "a pipeline is written like this: cleanup | threshold(sparsity=0.5)"


def _syntax_error(error: SyntaxError, source: str) -> tuple[str, int]:
    if source.endswith("|"):
        return "there is no pass behind the last |", len(source)
    column = (error.offset or 1) - 1
    return error.msg.partition(" (")[0], min(max(0, column), len(source))
