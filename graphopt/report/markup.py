"""HTML that cannot be injected into: text is escaped unless its type says that it is markup."""

from __future__ import annotations

from html import escape

from graphopt.report.tables import plain

_LONGEST = 400
_EMPTY = frozenset({"meta", "path", "line", "rect"})


class Html(str):
    """A piece of HTML. Any other string is text."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int | float) -> Html:
    """Make an element.

    Args:
        name: The tag, written by us.
        content: Children; a string that is no `Html` is text from anybody and is escaped.
        attributes: `class_` is `class`, and `_` elsewhere is `-`; values are escaped.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_visible(str(value)))}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY and not content:
        return Html(f"<{name}{pairs}/>")
    return Html(f"<{name}{pairs}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Put pieces one behind the other; text is escaped."""
    return Html(
        "".join(part if isinstance(part, Html) else escape(_visible(part)) for part in content)
    )


def _visible(text: str) -> str:
    return plain(text, _LONGEST)
