"""HTML that cannot be injected into: text is escaped unless its type says that it is markup."""

from __future__ import annotations

from html import escape

from graphopt.report.tables import plain

_LONGEST = 400
_EMPTY = frozenset({"meta", "path", "line", "rect"})


class Html(str):
    """A piece of HTML. Any other string is text."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | float) -> Html:
    """Make an element.

    Args:
        name: The tag, written by us.
        content: Children; a string that is no `Html` is text from anybody and is escaped.
        attributes: `class_` is `class`, and `_` elsewhere is `-`; values are escaped as content is.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY and not content:
        return Html(f"<{name}{pairs}/>")
    return Html(f"<{name}{pairs}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Put pieces one behind the other; text is escaped."""
    return Html("".join(_escaped(part) for part in content))


def _escaped(part: str | float) -> str:
    return part if isinstance(part, Html) else escape(plain(str(part), _LONGEST))
