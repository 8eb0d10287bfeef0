"""Which nodes a pass is asked to look at: by name, by the names they write, by operator."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Collection

import onnx_ir as ir

from graphopt.model.scopes import Scope

Globs = str | tuple[str, ...]


def address(node: ir.Node, scope: Scope) -> str:
    """Return what `Rewrite.at` calls a node: its name, or where it has none what it writes."""
    written = next((output.name for output in node.outputs if output.name), "")
    return scope.at(node.name or written)


def selects(
    node: ir.Node,
    scope: Scope,
    include: Globs = "*",
    exclude: Globs = "",
    op_types: Collection[str] | None = None,
    *,
    names: Collection[str] = (),
) -> bool:
    """Whether a node is meant.

    Args:
        node: A node of the scope.
        scope: Where it stands.
        include: Globs; one of them must match the name of the node, of an output or of a constant
            that it reads, alone or as `scope/name`.
        exclude: Globs, none of which may.
        op_types: Its operator must be one of these; None: any.
        names: What else it goes by, such as the name of a weight that it reads transposed.
    """
    if op_types is not None and node.op_type not in op_types:
        return False
    own = {node.name, *(output.name for output in node.outputs)}
    own |= {value.name for value in node.inputs if value is not None and _stored(value)}
    spelled = [name for name in own if name]
    spelled += [*(scope.at(name) for name in spelled), *names]
    return _matches(spelled, include) and not _matches(spelled, exclude)


def exactly(name: str) -> str:
    """Return a glob that matches one name only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _stored(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _matches(names: list[str], globs: Globs) -> bool:
    matches = _matcher((globs,) if isinstance(globs, str) else tuple(globs))
    return any(matches(name) for name in names)


@functools.lru_cache(maxsize=64)
def _matcher(globs: tuple[str, ...]) -> Callable[[str], bool]:
    """Thousands of globs may be `exactly` one layer each: those are looked up, not tried."""
    exact = {found for glob in globs if (found := _only_name(glob)) is not None}
    rest = [fnmatch.translate(glob) for glob in globs if _only_name(glob) is None]
    pattern = re.compile("|".join(rest)) if rest else None
    return lambda name: name in exact or (pattern is not None and pattern.match(name) is not None)


def _only_name(glob: str) -> str | None:
    """Return the one name that a glob matches; None: it may match several."""
    literal = _ESCAPED.sub("", glob)
    return None if _SPECIAL.search(literal) else _ESCAPED.sub(lambda found: found[1], glob)


_ESCAPED = re.compile(r"\[([*?[])\]")
_SPECIAL = re.compile(r"[*?[]")
