"""Attributes that went, that came, or whose default or spelling changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt.rewrite.opset_changes.site import Edit, Impossible, Site


@dataclass(frozen=True)
class Dropped:
    """Attributes that say nothing any more.

    Args:
        since: The version that they went with.
        names: The attributes.
    """

    since: int
    names: tuple[str, ...]

    def __call__(self, site: Site) -> Edit | None:
        """Return the edit that forgets them."""
        return dropped(site, *self.names) if site.crosses(self.since) else None


@dataclass(frozen=True)
class Defaults:
    """Attributes that stood for something else, or for nothing, where a node leaves them out.

    Args:
        since: The version that the default changed with.
        values: What each attribute stood for until then.
    """

    since: int
    values: Mapping[str, Any]

    def __call__(self, site: Site) -> Edit | None:
        """Return the edit that writes down those which the node leaves out."""
        missing = {name: value for name, value in self.values.items() if not site.has(name)}
        return given(site, **missing) if site.crosses(self.since) and missing else None


@dataclass(frozen=True)
class Respelled:
    """A text in an attribute that is spelled in another way.

    Args:
        since: The version that the spelling changed with.
        name: The attribute.
        texts: The new spelling by the old.
    """

    since: int
    name: str
    texts: Mapping[str, str]

    def __call__(self, site: Site) -> Edit | None:
        """Return the edit that spells it anew."""
        text = self.texts.get(site.value(self.name, "")) if site.crosses(self.since) else None
        return None if text is None else given(site, **{self.name: text})


@dataclass(frozen=True)
class Renamed:
    """An operator that does the same under another name.

    Args:
        since: The version that the new name came with.
        op_type: The new name.
    """

    since: int
    op_type: str

    def __call__(self, site: Site) -> Edit | None:
        """Return the edit that renames the operator."""
        if not site.crosses(self.since):
            return None

        def apply() -> None:
            site.node.op_type = self.op_type

        return apply


@dataclass(frozen=True)
class Gone:
    """An operator that does something else from some version on.

    Args:
        since: That version.
        why: What it did before.
    """

    since: int
    why: str

    def __call__(self, site: Site) -> Edit | None:
        """Refuse to cross that version."""
        if site.crosses(self.since):
            raise Impossible(self.why)
        return None


def dropped(site: Site, *names: str) -> Edit | None:
    """Return the edit that forgets attributes; None where a node has none of them."""
    return (lambda: forget(site, *names)) if site.has(*names) else None


def forget(site: Site, *names: str) -> None:
    """Remove those of these attributes that a node has."""
    for name in names:
        site.node.attributes.pop(name, None)


def given(site: Site, **attributes: Any) -> Edit:
    """Return the edit that sets attributes."""

    def apply() -> None:
        for name, value in attributes.items():
            site.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    return apply
